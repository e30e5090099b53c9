"""The rows that base and adapters are measured on, all of them on the same."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from trainer.config import DataSection
from trainer.data.cleaning.clean_rows import CleanRows, RenamedRows
from trainer.data.cleaning.rules import CleaningLog
from trainer.data.examples import Example, Examples, ListedExamples
from trainer.data.formats.formats import FORMATS, MESSAGE_KEYS
from trainer.data.labels import ConversationLabeller
from trainer.data.row_task import SupervisedRows
from trainer.errors import DataError
from trainer.metrics.language import detect_language

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class HeldOut:
    """The loss is of `examples`; answers are asked for `asked`, those of them that have a prompt.

    `source` and `digest` name the data that they were taken from.
    """

    source: str
    digest: str
    examples: Examples
    asked: tuple[Example, ...]
    language: str

    @cached_property
    def references(self) -> list[str]:
        """The answers that `asked` have in the data."""
        return [example.conversation.answer for example in self.asked]


def evenly_spread(rows: Sequence[_Row], count: int) -> list[_Row]:
    """At most `count` of the rows, from the first to near the last."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def held_out_rows(
    examples: Sequence[Example], *, source: str, digest: str, max_rows: int, language: str
) -> HeldOut:
    """At most `max_rows` of `examples`, evenly spread; `language` may be `auto`."""
    chosen = evenly_spread(examples, max_rows)
    if language == "auto":
        language = detect_language(example.conversation.answer for example in chosen)
    asked = tuple(example for example in chosen if example.conversation.prompt)
    return HeldOut(source, digest, ListedExamples(chosen), asked, language)


def read_held_out(
    path: Path,
    section: DataSection,
    labeller: ConversationLabeller,
    *,
    max_rows: int,
    language: str,
    max_length: int,
    tell: Callable[[str], None],
) -> HeldOut:
    """At most `max_rows` rows of a file, cleaned as `section` says and evenly spread over it.

    Rows longer than `max_length` are left out. Column names and format of `section` are those of
    the data that an adapter was trained on; where this file has others, they are passed over, and
    `tell` hears of it. Raises `DataError` when no row is left.
    """
    if not path.is_file():
        raise DataError(f"no data file {path}")
    rows = CleanRows(
        path, str(path), fitted(section, path, tell), CleaningLog(), task=SupervisedRows()
    )
    # The count decides which rows are taken, so that they are the same for every caller.
    conversations = [row.conversation for _, row in rows]
    if not conversations:
        raise DataError(f"no row of {path} is left to evaluate on")
    examples = []
    for conversation in evenly_spread(conversations, max_rows):
        labelled = labeller.label(conversation)[-1]
        if len(labelled.row) <= max_length:
            examples.append(Example(labelled.conversation, labelled.row))
    if not examples:
        raise DataError(f"every row of {path} is longer than the model's {max_length} tokens")
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    return held_out_rows(
        examples, source=str(path), digest=digest, max_rows=max_rows, language=language
    )


def fitted(section: DataSection, path: Path, tell: Callable[[str], None]) -> DataSection:
    """`section` without the column names and the format that the file at `path` doesn't have."""
    plain = section.model_copy(update={"columns": {}})
    there = set(RenamedRows(path, str(path), plain).columns)
    named = {theirs for ours, theirs in section.columns.items() if ours not in MESSAGE_KEYS}
    if named and not named <= there:
        tell(f"{path} has other columns than data.columns of the run names: its own are taken")
        section = plain
    named = (there - set(section.columns.values())) | set(section.columns)
    if not any(f.name == section.format and f.columns <= named for f in FORMATS):
        section = section.model_copy(update={"format": "auto"})
    return section
