"""One file as clean rows: read, its format recognised, every row converted and cleaned."""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

from trainer.config import DataSection
from trainer.data.cleaning.cleaning import RowCleaner
from trainer.data.cleaning.rules import CleaningLog, Rule
from trainer.data.formats.formats import (
    MESSAGE_KEYS,
    check_columns,
    choose_format,
    refuse_what_is_not_read,
    rename_columns,
)
from trainer.data.formats.source_row import Row, RowProblems, SourceRow
from trainer.data.formats.turn_lists import CONTENT_KEYS, ROLE_KEYS, TurnReader
from trainer.data.judged import DataRow
from trainer.data.reading import read_rows
from trainer.data.row_task import RowTask
from trainer.errors import DataError, RowError, UnknownFormatError, UnreadableRowError

_NUM_PEEKED = 512
"""Rows whose columns are looked at before the format is chosen: not every row has every field."""


class RenamedRows:
    """The rows of a file, or of a hub dataset, under our column names; iterates once.

    `columns` are those of the first rows. Rows that can't be parsed are collected in `problems`.
    Raises `DataError` for a source that can't be read, holds no rows, or lacks a column that
    `data.columns` names.
    """

    def __init__(self, path: Path, reference: str, section: DataSection) -> None:
        self.reference = reference
        self.problems = RowProblems(reference)
        self.num_read = 0
        self._ignored = frozenset(section.ignore_columns)
        self._mapping = {
            ours: theirs for ours, theirs in section.columns.items() if ours not in MESSAGE_KEYS
        }
        self._rows = read_rows(path, reference, section.split)
        self._first = list(islice(self._rows, _NUM_PEEKED))
        there = dict.fromkeys(
            name for row in self._first if isinstance(row, SourceRow) for name in row.values
        )
        if not there:
            for row in self:
                del row
            self.problems.raise_if_any(self.num_read)
            raise DataError(f"{reference} holds no rows")
        check_columns(tuple(there), self._mapping, reference)
        self.columns = tuple(
            rename_columns(dict.fromkeys(n for n in there if n not in self._ignored), self._mapping)
        )

    def __iter__(self) -> Iterator[SourceRow]:
        with closing(self._rows):
            for row in chain(self._first, self._rows):
                self.num_read += 1
                if isinstance(row, SourceRow):
                    yield SourceRow(row.place, self._renamed(row.values))
                else:
                    self.problems.add(*row)

    def _renamed(self, values: Row) -> Row:
        if self._ignored:
            values = {name: v for name, v in values.items() if name not in self._ignored}
        return rename_columns(values, self._mapping)


class CleanRows:
    """The rows of a file that passed every rule of `section`, with their places; iterates once.

    What was dropped and changed is counted in `log`. Raises as `RenamedRows` does, and
    `UnknownFormatError` for columns that fit no format of `task`; iterating ends with a `DataError`
    that names the rows that would have to be honoured and can't be.
    """

    def __init__(
        self,
        path: Path,
        reference: str,
        section: DataSection,
        log: CleaningLog,
        *,
        task: RowTask,
    ) -> None:
        self._rows = RenamedRows(path, reference, section)
        self._log = log
        self._task = task
        columns = self._rows.columns
        try:
            self.row_format = choose_format(
                section.format, columns, reference, task.formats, task.hint
            )
        except UnknownFormatError:
            for row in self._rows:
                del row
            self._rows.problems.raise_if_any(self._rows.num_read)
            raise
        self._cleaner = RowCleaner(section.cleaning, section.system, log)
        named = section.columns
        self._reader = TurnReader(
            (named["role"],) if "role" in named else ROLE_KEYS,
            (named["content"],) if "content" in named else CONTENT_KEYS,
        )
        self._columns: set[str] = set()

    @property
    def num_read(self) -> int:
        """Rows that went by so far."""
        return self._rows.num_read

    def unused(self) -> Iterator[str]:
        """A line for the columns, and one for the keys of messages, that were not used."""
        columns = sorted(self._columns - self.row_format.used)
        for what, names in (("columns", columns), ("message keys", sorted(self._reader.unused))):
            if names:
                yield f"{what} of {self._rows.reference} that were not used: {', '.join(names)}"

    def __iter__(self) -> Iterator[tuple[str, DataRow]]:
        problems = self._rows.problems
        for source in self._rows:
            self._columns |= {name for name, value in source.values.items() if value is not None}
            self._log.place = f"{self._rows.reference} {source.place}"
            try:
                row = self._converted(source.values)
            except UnreadableRowError as error:
                if self._task.is_strict:
                    problems.add(source.place, error)
                else:
                    self._log.record(Rule.UNREADABLE, str(error))
                continue
            except RowError as error:
                problems.add(source.place, error)
                continue
            cleaned = self._cleaner.clean(row)
            if cleaned is not None:
                yield source.place, cleaned
        problems.raise_if_any(self.num_read, self._task.complaint)

    def _converted(self, values: Row) -> DataRow:
        row_format = self.row_format
        refuse_what_is_not_read(values, row_format.used, is_text=row_format.name == "text")
        return row_format.convert(values, self._reader)
