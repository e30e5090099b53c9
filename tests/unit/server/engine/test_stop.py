"""Stop strings across pieces of text."""

from hypothesis import given
from hypothesis import strategies as st

from server.engine.stop import StopMatcher

pieces = st.lists(st.text(alphabet="ab", max_size=4), max_size=8)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=3)


@given(pieces, stop_lists)
def test_pieces_give_what_the_whole_text_would(parts: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    sent, stopped = "", False
    for part in parts:
        safe, stopped = matcher.push(part)
        sent += safe
        if stopped:
            break
    whole = "".join(parts)
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    assert stopped == bool(ends)
    if stopped:
        assert not any(stop in sent for stop in stops)
        assert whole.startswith(sent)
        assert any(whole[len(sent) :].startswith(stop) for stop in stops)
    else:
        assert sent + matcher.flush() == whole
