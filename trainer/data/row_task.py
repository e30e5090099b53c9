"""What preparing rows has to know of the objective."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Protocol

from trainer.data.conversation import Turn
from trainer.data.examples import Example, Examples
from trainer.data.formats.formats import FORMATS, RowFormat
from trainer.data.judged import DataRow
from trainer.data.labels import ConversationLabeller
from trainer.data.spool import PlacedRow

Matched = tuple[PlacedRow, Turn | None]
"""A row, and the other answer that goes through the model after its prompt."""


class RowTask(Protocol):
    """The part of preparing rows that differs between objectives."""

    @property
    def formats(self) -> Sequence[RowFormat]:
        """Which formats its rows come in."""
        ...

    @property
    def is_strict(self) -> bool:
        """Whether a row that lacks a field ends the run, instead of being dropped and counted."""
        ...

    @property
    def complaint(self) -> str:
        """What rows are that can't be used, for a sentence that begins with their number."""
        ...

    @property
    def hint(self) -> str:
        """What to say beside columns that fit no format."""
        ...

    def match(self, rows: Iterable[PlacedRow]) -> Iterator[Matched]:
        """Each row with the other answer to its prompt, where there is one."""
        ...

    def examples(
        self, row: DataRow, other: Turn | None, labeller: ConversationLabeller
    ) -> tuple[Example, ...]:
        """The tokens of a row. Raises `RowError` or `TemplateError`."""
        ...

    def planned(self, train: Examples) -> Sequence[Sized]:
        """What the plan lays out, each as long as what goes through the model together."""
        ...


class SupervisedRows:
    """Rows whose answers are learnt as they are."""

    formats = FORMATS
    is_strict = False
    complaint = "can't be used"
    hint = (
        ". Rows of chosen and rejected answers are for objective dpo or orpo, judged ones for kto"
    )

    def match(self, rows: Iterable[PlacedRow]) -> Iterator[Matched]:
        return ((row, None) for row in rows)

    def examples(
        self, row: DataRow, other: Turn | None, labeller: ConversationLabeller
    ) -> tuple[Example, ...]:
        return tuple(
            Example(labelled.conversation, labelled.row)
            for labelled in labeller.label(row.conversation)
        )

    def planned(self, train: Examples) -> Sequence[Sized]:
        return train.rows
