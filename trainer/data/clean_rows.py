"""One file as clean conversations: read, its format recognised, every row renamed and cleaned."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from trainer.config import DataSection
from trainer.data.cleaning import RowCleaner
from trainer.data.conversation import Conversation
from trainer.data.formats import choose_format, rename_columns
from trainer.data.reading import read_rows
from trainer.data.rules import CleaningLog
from trainer.errors import DataError


class RenamedRows:
    """The rows of a file, or of a hub dataset, under our column names; iterates once.

    `columns` are those of the first row. Raises `DataError` for a source that can't be read, holds
    no rows, or lacks a column that `data.columns` names.
    """

    def __init__(self, path: Path, reference: str, section: DataSection) -> None:
        self.reference = reference
        self.num_read = 0
        self._mapping = section.columns
        self._rows = read_rows(path, reference, section.split)
        first = next(self._rows, None)
        if first is None:
            raise DataError(f"{reference} holds no rows")
        self._first = first
        self.columns = tuple(rename_columns(first, self._mapping, reference))

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        with closing(self._rows):
            for row in chain([self._first], self._rows):
                self.num_read += 1
                yield rename_columns(row, self._mapping, self.reference)


class CleanRows:
    """The conversations of a file that passed every rule of `section`; iterates once.

    What was dropped and changed is counted in `log`. Raises as `RenamedRows` does, and
    `UnknownFormatError` for columns that fit no format.
    """

    def __init__(self, path: Path, reference: str, section: DataSection, log: CleaningLog) -> None:
        self._rows = RenamedRows(path, reference, section)
        self.row_format = choose_format(section.format, self._rows.columns, reference)
        self._cleaner = RowCleaner(section.cleaning, section.system, log)

    @property
    def num_read(self) -> int:
        """Rows that went by so far."""
        return self._rows.num_read

    def __iter__(self) -> Iterator[Conversation]:
        for row in self._rows:
            conversation = self._cleaner.clean(self.row_format.convert(row))
            if conversation is not None:
                yield conversation
