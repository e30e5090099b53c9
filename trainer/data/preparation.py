"""From the `data` section of a config to labelled rows, with everything that was done counted."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from trainer import defaults
from trainer.config import DataSection
from trainer.config_loading import LoadedConfig
from trainer.data.cleaning import CleanRows, Rule, clean_rows, without_overlap
from trainer.data.conversation import Conversation
from trainer.data.formats import RowFormat, choose_format
from trainer.data.reading import read_rows
from trainer.errors import DataError
from trainer.labels import ConversationLabeller, LabelledRow


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready to train on, and the conversation it came from."""

    conversation: Conversation
    row: LabelledRow


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Train and held-out examples. `digest` names the clean conversations in their order."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    row_format: RowFormat
    num_rows_read: int
    counts: Mapping[Rule, int]
    digest: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _File:
    rows: CleanRows
    row_format: RowFormat
    num_read: int


def prepare_data(loaded: LoadedConfig, labeller: ConversationLabeller) -> PreparedData:
    """Read, recognise, clean, split and label the rows that a config names.

    Raises `DataError` when a file can't be read or nothing is left to train or evaluate on, and
    `TemplateError` when the chat template gives no loss mask.
    """
    section = loaded.config.data
    train_file = _read(loaded.data_path(section.train), section.train, section.format)
    counts = Counter(train_file.rows.counts)
    num_read = train_file.num_read
    conversations = train_file.rows.conversations
    if isinstance(section.eval, str):
        eval_file = _read(loaded.data_path(section.eval), section.eval, section.format)
        counts.update(eval_file.rows.counts)
        num_read += eval_file.num_read
        held_out, unused = _sample(
            eval_file.rows.conversations, section.max_eval_rows, loaded.config.seed
        )
        note = f"held out: {len(held_out)} rows of {section.eval}"
        note += f" ({len(unused)} left out by max_eval_rows)" if unused else ""
    else:
        count = _share_count(len(conversations), section.eval, section.max_eval_rows)
        held_out, conversations = _sample(conversations, count, loaded.config.seed)
        note = f"held out: {count} rows drawn from {section.train} (data.eval {section.eval:g})"
    conversations = without_overlap(conversations, held_out, counts)
    train = _label(conversations, section, labeller, counts)
    evaluation = _label(held_out, section, labeller, counts)
    for examples, what in ((train, "train on"), (evaluation, "evaluate on")):
        if not examples:
            raise DataError(_nothing_left(what, counts))
    digest = _digest(train, evaluation)
    row_format = train_file.row_format
    return PreparedData(train, evaluation, row_format, num_read, dict(counts), digest, (note,))


def _read(path: Path, reference: str, wanted: str) -> _File:
    rows = read_rows(path, reference)
    first: Mapping[str, Any] | None = next(rows, None)
    if first is None:
        raise DataError(f"{reference} holds no rows")
    row_format = choose_format(wanted, tuple(first), reference)
    counter = _Counting(chain([first], rows))
    clean = clean_rows(row_format.convert(row) for row in counter)
    return _File(clean, row_format, counter.count)


class _Counting:
    """Iterates once and remembers how many went by."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for row in self._rows:
            self.count += 1
            yield row


def _share_count(num_rows: int, share: float, maximum: int) -> int:
    enough = min(defaults.MIN_EVAL_ROWS, num_rows // 5)
    return min(max(round(share * num_rows), enough, 1), maximum)


def _sample(
    conversations: tuple[Conversation, ...], count: int, seed: int
) -> tuple[tuple[Conversation, ...], tuple[Conversation, ...]]:
    """`count` rows drawn with `seed`, in file order, and the rest."""
    indices = range(len(conversations))
    drawn = set(random.Random(seed).sample(indices, min(count, len(conversations))))
    inside = tuple(conversations[i] for i in indices if i in drawn)
    return inside, tuple(conversations[i] for i in indices if i not in drawn)


def _label(
    conversations: tuple[Conversation, ...],
    section: DataSection,
    labeller: ConversationLabeller,
    counts: Counter[Rule],
) -> tuple[Example, ...]:
    examples = []
    for conversation in conversations:
        row = labeller.label(conversation)
        if len(row) > section.max_length:
            if section.over_length == "fail":
                raise DataError(
                    f"a row has {len(row)} tokens, more than data.max_length {section.max_length}: "
                    f"{conversation.turns[0].content[:60]!r}... Raise it, or set data.over_length "
                    "to drop or truncate"
                )
            if section.over_length == "drop":
                counts[Rule.TOO_LONG] += 1
                continue
            row = row.truncated(section.max_length)
            if row.num_loss_tokens == 0:
                counts[Rule.CUT_ANSWER] += 1
                continue
            counts[Rule.TRUNCATED] += 1
        examples.append(Example(conversation, row))
    return tuple(examples)


def _nothing_left(what: str, counts: Mapping[Rule, int]) -> str:
    done = "; ".join(f"{rule.value}: {count}" for rule, count in counts.items() if count)
    return f"no row is left to {what} after cleaning ({done or 'there were none'})"


def _digest(train: tuple[Example, ...], held_out: tuple[Example, ...]) -> str:
    sha = hashlib.sha256()
    for part, examples in (("train", train), ("eval", held_out)):
        sha.update(f"{part}\n".encode())
        for example in examples:
            sha.update(example.conversation.key.encode() + b"\n")
    return "sha256:" + sha.hexdigest()
