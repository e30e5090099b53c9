"""A row as a file has it, and what is wrong with rows, told all at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import DataError, RowError

MAX_PROBLEMS = 20
"""Rows that are named one by one; of more the number is told."""

SHOWN_CHARS = 60

Row = Mapping[str, Any]


def shown(value: Any) -> str:
    """The beginning of a value, for a message about it."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


@dataclass(frozen=True, slots=True)
class SourceRow:
    """`place` is where it stands: `line 3` of a text file, `row 3` of a table; both from 1."""

    place: str
    values: Row


class RowProblems:
    """Collects what is wrong with single rows of `reference`."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self._lines: list[tuple[int, str]] = []
        self.count = 0

    def add(self, place: str, error: RowError) -> None:
        """Row `place` can't be used."""
        self.count += 1
        if len(self._lines) < MAX_PROBLEMS:
            number = int(place.rpartition(" ")[2])
            self._lines.append((number, f"- {self.reference} {place}: {error}"))

    def raise_if_any(self, num_read: int, what: str = "can't be used") -> None:
        """Raise `DataError` with all of them if there were any."""
        if not self.count:
            return
        more = self.count - len(self._lines)
        named = [line for _, line in sorted(self._lines)]
        lines = [*named, *([f"... and {more} more"] if more else [])]
        raise DataError(
            f"{self.count} of {num_read} rows of {self.reference} {what}:\n" + "\n".join(lines)
        )
