"""What happened to each request of a run, one JSON line each."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """How a request ended, as its user judges it."""

    RIGHT = "right"  # whole, and the golden answer
    UNCHECKED = "unchecked"  # whole, no golden for it
    WRONG = "wrong"  # whole, and another answer than the golden one
    REFUSED = "refused"  # an error of the kind the request deserves, or 429/503 with Retry-After
    LEFT = "left"  # the user hung up, as it meant to
    BROKEN = "broken"  # no answer or half of one: the server was killed, or it is a fault
    FAULT = "fault"  # an error status or an answer that no request deserves


@dataclass(frozen=True, slots=True)
class Record:
    """One request. `started` is unix time; `ttft` and `gaps` are seconds; `note` says what."""

    scenario: str
    model: str
    started: float
    outcome: Outcome
    status: int = 0
    seconds: float = 0.0
    num_tokens: int = 0
    ttft: float | None = None
    gaps: tuple[float, ...] = ()
    note: str = ""

    def to_line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def read_records(path: Path) -> Iterator[Record]:
    """Every record of a file; a last line cut off by a kill is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                document = json.loads(line)
                document["outcome"] = Outcome(document["outcome"])
                document["gaps"] = tuple(document["gaps"])
                yield Record(**document)


def count_outcomes(records: Sequence[Record]) -> Counter[Outcome]:
    """Requests by outcome."""
    return Counter(record.outcome for record in records)


def jain_index(values: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all get the same, 1/n when one gets everything.

    R. Jain, D. Chiu, W. Hawe, DEC-TR-301 (1984). 1.0 for no values.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
