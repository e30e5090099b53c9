"""Two answers before a judge, twice, with their places swapped."""

import pytest

from trainer.metrics.judge import Ask, Form, Question
from trainer.metrics.pairwise import Outcome, compare_pairs, parse_verdict, tally


def fond_of(word: str) -> Ask:
    """A judge that prefers the answer with `word` in it, wherever it stands."""

    def ask(prompt: str, form: Form) -> str:
        first, second = prompt.split("[Answer A]")[1].split("[Answer B]")
        marked = (word in first, word in second)
        return {(True, False): "[[A]]", (False, True): "[[B]]"}.get(marked, "Equal: [[c]]")

    return ask


@pytest.mark.parametrize(
    ("ask", "outcome"),
    [
        (fond_of("good"), Outcome.WON), (fond_of("bad"), Outcome.LOST),
        (fond_of("neither"), Outcome.TIED),
        (lambda *_: "The first one. [[A]]", Outcome.INCONSISTENT),
        (lambda *_: "B", Outcome.INCONSISTENT),
        (lambda prompt, _: "[[C]]" if prompt.index("so good") < prompt.index("so bad") else "[[B]]",
         Outcome.INCONSISTENT),
        (lambda prompt, _: "[[A]]" if prompt.index("so good") < prompt.index("so bad") else "hm",
         Outcome.UNREADABLE),
    ],
)  # fmt: skip
def test_a_verdict_counts_when_swapping_places_does_not_change_it(
    ask: Ask, outcome: Outcome
) -> None:
    (duel,) = compare_pairs([Question("q")], ["so good"], ["so bad"], ask)
    assert duel.outcome is outcome
    assert len(duel.replies) == 2
    assert tally([duel])[f"pairwise_{outcome}"] == 1
    assert sum(tally([duel]).values()) == 1


def test_the_judge_sees_question_and_reference_and_both_orders() -> None:
    asked: list[str] = []
    compare_pairs([Question("why", "so")], ["x1"], ["x2"], lambda p, _: asked.append(p) or "[[C]]")
    assert ["x1" in p and "x2" in p and "why" in p for p in asked] == [True, True]
    assert [p.index("x1") < p.index("x2") for p in asked] == [True, False]
    assert "[Reference answer]\nso" in asked[0]


def test_equal_answers_are_a_tie_and_nobody_is_asked() -> None:
    def ask(prompt: str, form: Form) -> str:
        raise AssertionError("asked")

    (duel,) = compare_pairs([Question("q")], ["same"], ["same"], ask)
    assert (duel.outcome, duel.replies) == (Outcome.TIED, ())


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is longer. [[B]]", "B"), ("[[ a ]]", "A"), ("**C**", "C"), ("[[A]] or [[B]]", None),
        ("[[A]] ... so [[A]]", "A"), ("A better answer is B", None), ("", None), ("[[D]]", None),
        ('{"verdict": "B"}', "B"), ('so {"verdict": "B"}', None),
    ],
)  # fmt: skip
def test_verdicts_are_read_and_never_guessed(reply: str, verdict: str | None) -> None:
    assert parse_verdict(reply) == verdict
