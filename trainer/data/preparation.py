"""From the `data` section of a config to labelled rows, with everything that was done counted."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from trainer.config import DataSection, defaults
from trainer.data.cleaning.clean_rows import CleanRows
from trainer.data.cleaning.cleaning import HeldOutPrompts
from trainer.data.cleaning.rules import CleaningLog, Rule
from trainer.data.conversation import Conversation
from trainer.data.examples import Example, Examples, ExampleWriter
from trainer.data.formats.formats import RowFormat
from trainer.data.formats.source_row import RowProblems
from trainer.data.labels import ConversationLabeller
from trainer.data.row_task import RowTask, SupervisedRows
from trainer.data.rows_folder import RowsFolder
from trainer.data.splitting import PromptGroups, Split, draw, split_by_prompt
from trainer.data.spool import PlacedRow, RowSpool
from trainer.errors import DataError, RowError


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
class DataSource:
    """Where rows come from: the `data` section and the folder that its paths are relative to.

    `seed` draws what is held out. `num_positions` is how long a row the base can take; None where
    it has no such limit.
    """

    section: DataSection
    folder: Path
    seed: int = 0
    num_positions: int | None = None


@dataclass(frozen=True, slots=True)
class _File:
    reference: str
    rows: RowSpool
    row_format: RowFormat
    num_read: int
    prompts: PromptGroups
    notes: tuple[str, ...]


def prepare_data(
    source: DataSource, labeller: ConversationLabeller, task: RowTask | None = None
) -> PreparedData:
    """Read, recognise, clean, split and label the rows that a config names for `task`.

    With `data.streaming` neither the file nor the rows are ever in memory as a whole: clean
    rows and tokenised ones lie in a folder of the cache that goes when the result goes.
    Raises `DataError` when a file can't be read, rows can't be used (all of them named), or
    nothing is left to train or evaluate on, and `TemplateError` when the chat template gives no
    loss mask. Without `task` answers are learnt as they are.
    """
    return _Preparation(source, labeller, task or SupervisedRows()).run()


class _Preparation:
    def __init__(self, source: DataSource, labeller: ConversationLabeller, task: RowTask) -> None:
        self._source = source
        self._section = source.section
        self._labeller = labeller
        self._task = task
        self._log = CleaningLog()
        self._folder = RowsFolder() if source.section.streaming else None

    def run(self) -> PreparedData:
        section, seed, log = self._section, self._source.seed, self._log
        file = self._read(section.train, "train")
        num_read, total = file.num_read, len(file.rows)
        notes = [*file.notes]
        if isinstance(section.eval, str):
            eval_file = self._read(section.eval, "eval")
            num_read += eval_file.num_read
            notes += eval_file.notes
            chosen = draw(len(eval_file.rows), section.max_eval_rows, seed)
            held_out = list(compress(eval_file.rows, chosen))
            left_out = len(eval_file.rows) - len(held_out)
            note = f"held out: {len(held_out)} rows of {section.eval}"
            note += f" ({left_out} left out by max_eval_rows)" if left_out else ""
            wanted = np.ones(total, dtype=np.bool_)
        else:
            eval_file = file
            count = _share_count(total, section.eval, section.max_eval_rows)
            split = split_by_prompt(file.prompts, count, section.max_eval_rows, seed, section.train)
            held_out = list(compress(file.rows, split.held_out))
            note = _split_note(split, section.train, section.eval)
            wanted = split.trained.copy()
        notes.insert(0, note)
        num_wanted = int(wanted.sum())
        if section.max_train_rows is not None and section.max_train_rows < num_wanted:
            notes.append(f"max_train_rows: {section.max_train_rows} of {num_wanted} rows drawn")
            wanted[wanted] = draw(num_wanted, section.max_train_rows, seed)

        prompts = HeldOutPrompts((row.conversation for _, row in held_out), section.cleaning, log)
        labelling = _Labelling(self._source, self._labeller, self._task, log)
        kept = _allowed(compress(file.rows, wanted), prompts, log, section.train)
        train = labelling.write("train", section.train, kept, self._folder)
        evaluation = labelling.write("eval", eval_file.reference, held_out, self._folder)
        labelling.raise_problems(num_read)
        for examples, what in ((train, "train on"), (evaluation, "evaluate on")):
            if not examples:
                raise DataError(_nothing_left(what, log.counts))
        if labelling.num_split:
            notes.append(
                f"the chat template rewrites earlier turns: {labelling.num_split} conversations "
                "are one row for each answer, with the history as a server sends it then"
            )
        return PreparedData(
            train=train,
            held_out=evaluation,
            row_format=file.row_format,
            num_rows_read=num_read,
            counts=dict(log.counts),
            digest=labelling.digest(),
            notes=tuple(notes),
            examples={rule: tuple(texts) for rule, texts in log.examples.items()},
        )

    def _read(self, reference: str, name: str) -> _File:
        """Read and clean one file."""
        task, folder = self._task, self._folder
        spool = RowSpool(None if folder is None else folder.path / f"{name}.jsonl")
        prompts = PromptGroups()
        path = self._source.folder / Path(reference).expanduser()
        rows = CleanRows(path, reference, self._section, self._log, task=task)
        for place, row in rows:
            spool.add(place, row)
            prompts.add(row.conversation)
        spool.close()
        if task.is_strict and not len(spool):
            raise DataError(
                f"no row of {reference} is left after cleaning ({_done(self._log.counts)})"
            )
        return _File(
            reference, spool, rows.row_format, rows.num_read, prompts, tuple(rows.unused())
        )


def _allowed(
    rows: Iterable[PlacedRow], prompts: HeldOutPrompts, log: CleaningLog, reference: str
) -> Iterator[PlacedRow]:
    for place, row in rows:
        log.place = f"{reference} {place}"
        if prompts.allows(row.conversation):
            yield place, row


def _share_count(num_rows: int, share: float, maximum: int) -> int:
    enough = min(defaults.MIN_EVAL_ROWS, num_rows // 5)
    return min(max(round(share * num_rows), enough, 1), maximum)


def _split_note(split: Split, reference: str, share: float) -> str:
    num_rows = int(split.held_out.sum())
    note = f"held out: {num_rows} rows drawn from {reference} (data.eval {share:g})"
    left_out = int((~split.held_out & ~split.trained).sum())
    if split.num_prompts < num_rows + left_out:
        note += f": all rows of {split.num_prompts} prompts, which are not trained on"
    return note + (f" ({left_out} left out by max_eval_rows)" if left_out else "")


class _Labelling:
    """Labels rows into examples, and hashes them in their order."""

    def __init__(
        self,
        source: DataSource,
        labeller: ConversationLabeller,
        task: RowTask,
        log: CleaningLog,
    ) -> None:
        self._section = source.section
        self._num_positions = source.num_positions
        self._labeller = labeller
        self._task = task
        self._log = log
        self._sha = hashlib.sha256()
        self._problems: dict[str, RowProblems] = {}
        self.num_split = 0

    def write(
        self,
        part: str,
        reference: str,
        rows: Iterable[PlacedRow],
        folder: RowsFolder | None,
    ) -> Examples:
        """The examples of one split; rows that are too long are dealt with and counted."""
        self._sha.update(f"{part}\n".encode())
        problems = self._problems.setdefault(reference, RowProblems(reference))
        writer = ExampleWriter(part, folder)
        for (place, row), other in self._task.match(rows):
            self._log.place = f"{reference} {place}"
            try:
                examples = self._task.examples(row, other, self._labeller)
                self.num_split += len(examples) > 1
                for example in examples:
                    fitted = self._fitted(example)
                    if fitted is not None:
                        key = row.key if row.is_judged else fitted.conversation.key
                        self._sha.update(key.encode() + b"\n")
                        writer.add(fitted)
            except RowError as error:
                problems.add(place, error)
        return writer.finish()

    def raise_problems(self, num_read: int) -> None:
        """Raise `DataError` for rows that can't be trained on."""
        for problems in self._problems.values():
            problems.raise_if_any(num_read)

    def digest(self) -> str:
        return "sha256:" + self._sha.hexdigest()

    def _fitted(self, example: Example) -> Example | None:
        section, length = self._section, example.longest
        if length <= section.max_length:
            if self._num_positions is not None and length > self._num_positions:
                raise RowError(
                    "tokens",
                    f"{length}, more than the {self._num_positions} positions of the base: "
                    f"{_shown(example.conversation)}. Lower data.max_length to "
                    f"{self._num_positions}, and data.over_length says what happens to such rows",
                )
            return example
        if section.over_length == "fail":
            raise RowError(
                "tokens",
                f"{length}, more than data.max_length {section.max_length}: "
                f"{_shown(example.conversation)}. Raise it, or set data.over_length to drop or "
                "truncate",
            )
        beginning = example.conversation.turns[0].content
        if section.over_length == "drop":
            self._log.record(Rule.TOO_LONG, beginning)
            return None
        row = example.row.truncated(section.max_length)
        if row.num_loss_tokens == 0:
            self._log.record(Rule.CUT_ANSWER, beginning)
            return None
        self._log.record(Rule.TRUNCATED, beginning)
        return replace(example, row=row)


def _shown(conversation: Conversation) -> str:
    text = conversation.turns[0].content
    return repr(text[:60] + ("..." if len(text) > 60 else ""))


def _nothing_left(what: str, counts: Mapping[Rule, int]) -> str:
    return f"no row is left to {what} after cleaning ({_done(counts)})"


def _done(counts: Mapping[Rule, int]) -> str:
    done = "; ".join(f"{rule.value}: {count}" for rule, count in counts.items() if count)
    return done or "there were none"
