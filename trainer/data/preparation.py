"""From the `data` section of a config to labelled rows, with everything that was done counted."""

import hashlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from trainer import defaults
from trainer.config import DataSection
from trainer.config_loading import LoadedConfig
from trainer.data.clean_rows import CleanRows
from trainer.data.cleaning import HeldOutPrompts
from trainer.data.conversation import Conversation
from trainer.data.examples import Example, Examples, ExampleWriter
from trainer.data.formats import RowFormat
from trainer.data.rows_folder import RowsFolder
from trainer.data.rules import CleaningLog, Rule
from trainer.data.spool import ConversationSpool
from trainer.errors import DataError
from trainer.labels import ConversationLabeller, LabelledConversation


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Train and held-out examples. `digest` names the clean conversations in their order.

    `examples` are the beginnings of a few of the rows that each rule in `counts` met.
    """

    train: Examples
    held_out: Examples
    row_format: RowFormat
    num_rows_read: int
    counts: Mapping[Rule, int]
    digest: str
    notes: tuple[str, ...]
    examples: Mapping[Rule, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _File:
    conversations: ConversationSpool
    row_format: RowFormat
    num_read: int


def prepare_data(loaded: LoadedConfig, labeller: ConversationLabeller) -> PreparedData:
    """Read, recognise, clean, split and label the rows that a config names.

    With `data.streaming` neither the file nor the rows are ever in memory as a whole: clean
    conversations and tokenised rows lie in a folder of the cache that goes when the result goes.
    Raises `DataError` when a file can't be read or nothing is left to train or evaluate on, and
    `TemplateError` when the chat template gives no loss mask.
    """
    section, seed = loaded.config.data, loaded.config.seed
    log = CleaningLog()
    folder = RowsFolder() if section.streaming else None
    train_file = _read(loaded, section.train, log, folder, "train")
    num_read = train_file.num_read
    total = len(train_file.conversations)
    if isinstance(section.eval, str):
        eval_file = _read(loaded, section.eval, log, folder, "eval")
        num_read += eval_file.num_read
        eval_rows = eval_file.conversations
        drawn = _draw(len(eval_rows), section.max_eval_rows, seed)
        held_out = list(compress(eval_rows, drawn))
        left_out = len(eval_rows) - len(held_out)
        note = f"held out: {len(held_out)} rows of {section.eval}"
        note += f" ({left_out} left out by max_eval_rows)" if left_out else ""
        wanted = np.ones(total, dtype=np.bool_)
    else:
        count = _share_count(total, section.eval, section.max_eval_rows)
        drawn = _draw(total, count, seed)
        held_out = list(compress(train_file.conversations, drawn))
        note = f"held out: {count} rows drawn from {section.train} (data.eval {section.eval:g})"
        wanted = ~drawn
    notes = [note]
    num_wanted = int(wanted.sum())
    if section.max_train_rows is not None and section.max_train_rows < num_wanted:
        notes.append(f"max_train_rows: {section.max_train_rows} of {num_wanted} rows drawn")
        wanted[wanted] = _draw(num_wanted, section.max_train_rows, seed)

    prompts = HeldOutPrompts(held_out, section.cleaning, log)
    rows = compress(train_file.conversations, wanted)
    labelling = _Labelling(section, labeller, log)
    train = labelling.write("train", (row for row in rows if prompts.allows(row)), folder)
    evaluation = labelling.write("eval", held_out, folder)
    for examples, what in ((train, "train on"), (evaluation, "evaluate on")):
        if not examples:
            raise DataError(_nothing_left(what, log.counts))
    if labelling.num_split:
        notes.append(
            f"the chat template rewrites earlier turns: {labelling.num_split} conversations are "
            "one row for each answer, with the history as a server sends it then"
        )
    return PreparedData(
        train=train,
        held_out=evaluation,
        row_format=train_file.row_format,
        num_rows_read=num_read,
        counts=dict(log.counts),
        digest=labelling.digest(),
        notes=tuple(notes),
        examples={rule: tuple(texts) for rule, texts in log.examples.items()},
    )


def _read(
    loaded: LoadedConfig,
    reference: str,
    log: CleaningLog,
    folder: RowsFolder | None,
    name: str,
) -> _File:
    """Read and clean one file."""
    spool = ConversationSpool(None if folder is None else folder.path / f"{name}.jsonl")
    rows = CleanRows(loaded.data_path(reference), reference, loaded.config.data, log)
    for conversation in rows:
        spool.add(conversation)
    spool.close()
    return _File(spool, rows.row_format, rows.num_read)


def _share_count(num_rows: int, share: float, maximum: int) -> int:
    enough = min(defaults.MIN_EVAL_ROWS, num_rows // 5)
    return min(max(round(share * num_rows), enough, 1), maximum)


def _draw(num_rows: int, count: int, seed: int) -> NDArray[np.bool_]:
    """Of each row whether it is one of `count` that are drawn, or of all if there are fewer."""
    drawn = np.zeros(num_rows, dtype=np.bool_)
    drawn[random.Random(seed).sample(range(num_rows), min(count, num_rows))] = True
    return drawn


class _Labelling:
    """Labels conversations into examples, and hashes them in their order."""

    def __init__(
        self, section: DataSection, labeller: ConversationLabeller, log: CleaningLog
    ) -> None:
        self._section = section
        self._labeller = labeller
        self._log = log
        self._sha = hashlib.sha256()
        self.num_split = 0

    def write(
        self,
        part: str,
        conversations: Iterable[Conversation],
        folder: RowsFolder | None,
    ) -> Examples:
        """The examples of one split; rows that are too long are dealt with and counted."""
        self._sha.update(f"{part}\n".encode())
        writer = ExampleWriter(part, folder)
        for conversation in conversations:
            labelled = self._labeller.label(conversation)
            self.num_split += len(labelled) > 1
            for one in labelled:
                example = self._fitted(one)
                if example is not None:
                    self._sha.update(example.conversation.key.encode() + b"\n")
                    writer.add(example)
        return writer.finish()

    def digest(self) -> str:
        return "sha256:" + self._sha.hexdigest()

    def _fitted(self, labelled: LabelledConversation) -> Example | None:
        section, conversation, row = self._section, labelled.conversation, labelled.row
        if len(row) <= section.max_length:
            return Example(conversation, row)
        beginning = conversation.turns[0].content
        if section.over_length == "fail":
            raise DataError(
                f"a row has {len(row)} tokens, more than data.max_length {section.max_length}: "
                f"{beginning[:60]!r}... Raise it, or set data.over_length to drop or truncate"
            )
        if section.over_length == "drop":
            self._log.record(Rule.TOO_LONG, beginning)
            return None
        row = row.truncated(section.max_length)
        if row.num_loss_tokens == 0:
            self._log.record(Rule.CUT_ANSWER, beginning)
            return None
        self._log.record(Rule.TRUNCATED, beginning)
        return Example(conversation, row)


def _nothing_left(what: str, counts: Mapping[Rule, int]) -> str:
    done = "; ".join(f"{rule.value}: {count}" for rule, count in counts.items() if count)
    return f"no row is left to {what} after cleaning ({done or 'there were none'})"
