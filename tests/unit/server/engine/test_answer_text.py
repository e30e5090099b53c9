"""Text in pieces: UTF-8, stop strings and log probabilities, however the tokens fall."""

from hypothesis import given
from hypothesis import strategies as st

from server.core.logprobs import Scores, TokenLogprobs
from server.core.request import FinishReason, SamplingParams
from server.engine.answer_text import AnswerText, TextPiece
from server.scheduling.plan import SequenceUpdate
from tests.fakes.api_tokenizer import END_OF_TURN, ByteStream

letters = st.text(alphabet="ab é🙂\n", max_size=30)
stops = st.lists(st.text(alphabet="ab é🙂\n", min_size=1, max_size=4), max_size=3)


def run(
    text: str, sampling: SamplingParams, *, is_cut: bool = False
) -> tuple[list[TextPiece], str]:
    """Feed the bytes of `text` as tokens, and the end of turn unless the answer is cut."""
    answer = AnswerText(ByteStream(), sampling)
    tokens = list(text.encode()) + ([] if is_cut else [END_OF_TURN])
    pieces: list[TextPiece] = []
    for index, token in enumerate(tokens):
        is_last, is_end = index == len(tokens) - 1, token == END_OF_TURN
        reason = FinishReason.STOP if is_end else FinishReason.LENGTH if is_last else None
        update = SequenceUpdate(
            0, token, reason, is_end_token=is_end, scores=Scores((TokenLogprobs(token, -1.0, 1),))
        )
        pieces.append(answer.push(update))
        if pieces[-1].finish_reason is not None:
            break
    return pieces, "".join(piece.text for piece in pieces)


def cut_at_stop(text: str, stops: list[str], *, includes: bool) -> tuple[str, str | None]:
    """What is left of `text`: the stop that is complete first ends it."""
    for end in range(1, len(text) + 1):
        found = [(text.find(s), -len(s)) for s in stops if text[:end].endswith(s)]
        if found:
            begin = min(end + length for _, length in found)
            return text[:end] if includes else text[:begin], text[begin:end]
    return text, None


@given(text=letters, stops=stops, includes=st.booleans())
def test_stop_strings(text: str, stops: list[str], includes: bool) -> None:
    sampling = SamplingParams(max_tokens=500, stop=tuple(stops), includes_stop=includes, logprobs=0)
    pieces, got = run(text, sampling)
    want, matched = cut_at_stop(text, stops, includes=includes)
    assert got == want
    assert pieces[-1].finish_reason is FinishReason.STOP
    assert pieces[-1].stop_reason == matched
    assert all("\ufffd" not in piece.text for piece in pieces)


@given(text=letters, stops=stops, includes=st.booleans(), is_cut=st.booleans())
def test_log_probabilities_spell_the_text(
    text: str, stops: list[str], includes: bool, is_cut: bool
) -> None:
    sampling = SamplingParams(max_tokens=500, stop=tuple(stops), includes_stop=includes, logprobs=0)
    pieces, got = run(text, sampling, is_cut=is_cut)
    told = [entry for piece in pieces for entry in piece.scores.drawn]
    spelled = bytes(entry.token_id for entry in told).decode(errors="replace")
    assert spelled == got
    sent = ""
    for piece in pieces:
        for entry in piece.scores.drawn:
            assert len(sent) <= entry.offset <= len(sent) + len(piece.text)
        sent += piece.text


def test_nothing_stops_before_the_minimum() -> None:
    sampling = SamplingParams(max_tokens=50, stop=("a",), min_tokens=3)
    assert run("aaab a", sampling)[1] == "aaab "
    assert run("ab", sampling)[1] == "ab"


def test_a_stop_token_has_no_text_unless_it_is_wanted() -> None:
    token = ord("x")
    for includes, want in ((False, "ab"), (True, "abx")):
        sampling = SamplingParams(
            max_tokens=9, stop_token_ids=frozenset({token}), includes_stop=includes
        )
        answer = AnswerText(ByteStream(), sampling)
        pieces = [answer.push(SequenceUpdate(0, ord(c), None)) for c in "ab"]
        pieces.append(answer.push(SequenceUpdate(0, token, FinishReason.STOP, is_end_token=True)))
        assert "".join(piece.text for piece in pieces) == want
        assert pieces[-1].stop_reason == token


def test_half_a_character_at_the_end_is_replaced() -> None:
    answer = AnswerText(ByteStream(), SamplingParams(max_tokens=1))
    piece = answer.push(SequenceUpdate(0, 0xC3, FinishReason.LENGTH))
    assert piece.text == "\ufffd"
