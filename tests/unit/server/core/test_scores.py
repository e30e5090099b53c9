"""Scores travel whole, from the sampler to the answer."""

from pathlib import Path

from server.core.logprobs import NO_SCORES, Scores, TokenLogprobs, joined, step_scores

SERVER = Path(__file__).parents[4] / "server"


def entry(token_id: int) -> TokenLogprobs:
    return TokenLogprobs(token_id, -1.0, 1)


def test_the_parts_of_a_choice_are_its_whole_in_order() -> None:
    parts = [Scores(prompt=(entry(1), entry(2))), NO_SCORES, Scores((entry(4),), (entry(3),))]
    assert joined(parts) == Scores((entry(4),), (entry(1), entry(2), entry(3)))
    assert joined([]) == NO_SCORES
    assert not joined([NO_SCORES])


def test_a_step_scores_rows_that_draw_rows_in_a_prompt_and_both() -> None:
    scores = step_scores({1: entry(7), 2: entry(8)}, {2: (entry(5), entry(6)), 3: (entry(4),)})
    assert scores == {
        1: Scores((entry(7),)),
        2: Scores((entry(8),), (entry(5), entry(6))),
        3: Scores(prompt=(entry(4),)),
    }


def test_the_field_is_named_where_it_is_asked_for_made_and_written_only() -> None:
    naming = [path for path in SERVER.rglob("*.py") if "prompt_logprobs" in path.read_text()]
    assert len(naming) <= 6, "carry `Scores` whole"
