"""What cleaning did, counted by rule, with a few of the rows that it was done to."""

from collections import Counter
from enum import StrEnum

NUM_EXAMPLES = 3
EXAMPLE_CHARS = 100


class Rule(StrEnum):
    """What was done to rows, as the report and the manifest name it."""

    UNREADABLE = "dropped: fields missing or of the wrong type"
    EMPTY_TURN = "dropped: an empty turn"
    UNKNOWN_ROLE = "dropped: a role that nobody knows"
    WRONG_ORDER = "dropped: roles out of order"
    SHORT_ANSWER = "dropped: answer shorter than min_answer_chars"
    SAME_ANSWERS = "dropped: chosen and rejected are the same once cleaned"
    DUPLICATE = "dropped: exact duplicate"
    NEAR_DUPLICATE = "dropped: near duplicate"
    OVERLAP = "dropped from train: prompt is also held out"
    NEAR_OVERLAP = "dropped from train: prompt is nearly a held-out one"
    CONTROL_DROPPED = "dropped: control characters"
    HTML_DROPPED = "dropped: HTML leftovers"
    TOO_LONG = "dropped: longer than max_length"
    TRUNCATED = "truncated to max_length"
    CUT_ANSWER = "dropped: no answer left within max_length"
    UNANSWERED = "last turn without an answer cut off"
    REPAIRED = "cut off where roles or turns go wrong"
    EMPTY_SYSTEM = "empty system turn removed"
    UNTRAINED = "dropped: no answer of it is trained (weight 0, train false)"
    TRIMMED = "white space around a turn removed"
    CONTROL_REMOVED = "control characters removed"
    HTML_STRIPPED = "HTML leftovers stripped"
    SYSTEM_ADDED = "data.system added"
    DUPLICATE_KEPT = "left in: exact duplicate"
    NEAR_DUPLICATE_KEPT = "left in: near duplicate"
    OVERLAP_KEPT = "left in train: prompt is also held out"
    NEAR_OVERLAP_KEPT = "left in train: prompt is nearly a held-out one"
    CONTROL_KEPT = "left in: control characters"
    HTML_KEPT = "left in: HTML leftovers"


class CleaningLog:
    """How many rows each rule met, and the beginnings of the first few of them.

    `place` is where the row stands that is being looked at, "" where that isn't known.
    """

    def __init__(self) -> None:
        self.place = ""
        self.counts: Counter[Rule] = Counter()
        self.examples: dict[Rule, list[str]] = {}

    def record(self, rule: Rule, text: str) -> None:
        """Count `rule` once, for a row that begins with `text`."""
        self.counts[rule] += 1
        kept = self.examples.setdefault(rule, [])
        if len(kept) < NUM_EXAMPLES:
            line = " ".join(text[: 2 * EXAMPLE_CHARS].split())
            line = line if len(line) <= EXAMPLE_CHARS else line[:EXAMPLE_CHARS] + "…"
            kept.append(f"{self.place}: {line}" if self.place else line)
