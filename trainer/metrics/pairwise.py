"""Two answers side by side before a judge, after MT-Bench's pairwise comparison (arXiv:2306.05685).

Judges prefer a place: often the first answer, whatever it is. So each pair is judged twice, the
second time with the places swapped, and a verdict counts only when it is the same both times.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from trainer.metrics.judge import Ask, Form, Question

_PROMPT = """Two assistants answered the question. Decide which answer is better: more helpful, \
relevant, accurate and detailed. Neither the order of the answers nor their length may influence \
you. Give a short reason, then end with the verdict in exactly this form: [[A]] if A is better, \
[[B]] if B is better, [[C]] if they are equally good.

[Question]
{question}
{reference}
[Answer A]
{first}
[Answer B]
{second}
[End]"""
_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]", re.IGNORECASE)
_IN_FORM = re.compile(r'\{\s*"verdict"\s*:\s*"([ABC])"\s*\}')
_BARE = re.compile(r"\W*([ABC])\W*", re.IGNORECASE)
_SWAPPED = {"A": "B", "B": "A", "C": "C"}

VERDICT = Form("verdict", ("A", "B", "C"))


class Outcome(StrEnum):
    """What two verdicts on one pair come to, seen from the answer that is compared."""

    WON = "won"
    LOST = "lost"
    TIED = "tied"
    INCONSISTENT = "inconsistent"
    """With the places swapped the verdict was another one."""
    UNREADABLE = "unreadable"
    """At least one of the replies has no verdict in it."""


_OUTCOMES = {"A": Outcome.WON, "B": Outcome.LOST, "C": Outcome.TIED}


@dataclass(frozen=True, slots=True)
class Duel:
    """One pair: the outcome, and the judge's replies with the answer first and with it second.

    There are no replies where the answers are the same text: that is a tie, and nobody is asked.
    """

    outcome: Outcome
    replies: tuple[str, ...] = ()


def compare_pairs(
    questions: Sequence[Question], answers: Sequence[str], opponents: Sequence[str], ask: Ask
) -> tuple[Duel, ...]:
    """Each answer against its opponent, in order."""
    return tuple(
        _duel(question, answer, opponent, ask)
        for question, answer, opponent in zip(questions, answers, opponents, strict=True)
    )


def tally(duels: Sequence[Duel]) -> dict[str, float]:
    """`pairwise_won` and so on: how many of the pairs had each outcome."""
    counts = Counter(duel.outcome for duel in duels)
    return {f"pairwise_{outcome}": float(counts[outcome]) for outcome in Outcome}


def parse_verdict(reply: str) -> str | None:
    """A, B or C; None where the reply has no verdict, or several that differ."""
    found = {letter.upper() for letter in _VERDICT.findall(reply)}
    bare = _BARE.fullmatch(reply) or _IN_FORM.fullmatch(reply.strip())
    if not found and bare:
        found = {bare[1].upper()}
    return found.pop() if len(found) == 1 else None


def _duel(question: Question, answer: str, opponent: str, ask: Ask) -> Duel:
    if answer == opponent:
        return Duel(Outcome.TIED)
    replies = tuple(
        ask(
            _PROMPT.format(
                question=question.text,
                reference=f"\n[Reference answer]\n{question.reference}\n"
                if question.reference
                else "",
                first=first,
                second=second,
            ),
            VERDICT,
        )
        for first, second in ((answer, opponent), (opponent, answer))
    )
    verdict, swapped = (parse_verdict(reply) for reply in replies)
    if verdict is None or swapped is None:
        return Duel(Outcome.UNREADABLE, replies)
    same = verdict == _SWAPPED[swapped]
    return Duel(_OUTCOMES[verdict] if same else Outcome.INCONSISTENT, replies)
