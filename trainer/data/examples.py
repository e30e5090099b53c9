"""Rows ready to train on: in memory, or on disk in a memory-mapped Arrow file."""

from array import array
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from trainer.data.conversation import Conversation, parse_key
from trainer.data.labels import LabelledRow
from trainer.data.rows_folder import RowsFolder

ROWS_A_BATCH = 512
"""Rows of one Arrow record batch: what the writer holds in memory at a time."""

Counts = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready to train on, and the conversation it came from."""

    conversation: Conversation
    row: LabelledRow

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence in it."""
        return len(self.row)


class Examples(Sequence[Example]):
    """Examples by index. `lengths` and `loss_counts` hold the tokens of each and how many of them
    are learnt, without reading the rows."""

    lengths: Counts
    loss_counts: Counts

    @property
    def rows(self) -> "RowsOf":
        """The labelled rows alone."""
        return RowsOf(self)


class ListedExamples(Examples):
    """Examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = tuple(examples)
        self.lengths = np.array([len(e.row) for e in examples], dtype=np.int32)
        self.loss_counts = np.array([e.row.num_loss_tokens for e in examples], dtype=np.int32)

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        return self._examples[index]


class MappedExamples(Examples):
    """Examples in an Arrow file that the operating system maps: read when asked for, held never.

    Keeps `folder`, and with it the file, alive.
    """

    def __init__(self, path: Path, lengths: Counts, loss_counts: Counts, folder: object) -> None:
        import pyarrow

        self.lengths = lengths
        self.loss_counts = loss_counts
        self.path = path
        self._folder = folder
        self._file = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(index)
        number, offset = divmod(position, ROWS_A_BATCH)
        batch = self._file.get_batch(number)
        ids = batch.column(0)[offset].values.to_numpy()
        mask = batch.column(1)[offset].values.to_numpy(zero_copy_only=False)
        conversation = parse_key(batch.column(2)[offset].as_py())
        return Example(conversation, LabelledRow(tuple(ids.tolist()), tuple(mask.tolist())))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


class RowsOf(Sequence[LabelledRow]):
    """The labelled rows of examples, each read when it is asked for."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.lengths = examples.lengths

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> LabelledRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LabelledRow, ...]: ...
    def __getitem__(self, index: int | slice) -> LabelledRow | tuple[LabelledRow, ...]:
        if isinstance(index, slice):
            return tuple(example.row for example in self._examples[index])
        return self._examples[index].row


def row_lengths(rows: Sequence[Sized]) -> list[int]:
    """Tokens of each row, without reading rows that are on disk."""
    if isinstance(rows, RowsOf):
        return [int(length) for length in rows.lengths]
    return [len(row) for row in rows]


class ExampleWriter:
    """Collects examples: into memory, or with a folder into an Arrow file there."""

    def __init__(self, name: str, folder: RowsFolder | None) -> None:
        self._path = None if folder is None else folder.path / f"{name}.arrow"
        self._folder = folder
        self._held: list[Example] = []
        self._lengths = array("i")
        self._loss_counts = array("i")
        self._writer: Any = None

    @property
    def num_held(self) -> int:
        """Examples in memory now."""
        return len(self._held)

    def add(self, example: Example) -> None:
        self._held.append(example)
        if self._path is not None and len(self._held) == ROWS_A_BATCH:
            self._flush()

    def finish(self) -> Examples:
        """All that was added, in order. The writer is done with."""
        if self._path is None:
            return ListedExamples(self._held)
        self._flush()
        self._writer.close()
        lengths, loss_counts = (
            np.array(counts, dtype=np.int32) for counts in (self._lengths, self._loss_counts)
        )
        return MappedExamples(self._path, lengths, loss_counts, self._folder)

    def _flush(self) -> None:
        import pyarrow

        columns = {
            "token_ids": (pyarrow.list_(pyarrow.int32()), [e.row.token_ids for e in self._held]),
            "carries_loss": (
                pyarrow.list_(pyarrow.bool_()),
                [e.row.carries_loss for e in self._held],
            ),
            "conversation": (pyarrow.large_string(), [e.conversation.key for e in self._held]),
        }
        schema = pyarrow.schema([(name, kind) for name, (kind, _) in columns.items()])
        if self._writer is None:
            self._writer = pyarrow.ipc.new_file(str(self._path), schema)
        arrays = [pyarrow.array(values, type=kind) for kind, values in columns.values()]
        if self._held:
            self._writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
        self._lengths.extend(len(e.row) for e in self._held)
        self._loss_counts.extend(e.row.num_loss_tokens for e in self._held)
        self._held.clear()
