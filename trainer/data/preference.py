"""Preference data: which of two answers is better (dpo, orpo), or whether one answer is good (kto).

Rows of pairs have `prompt`, `chosen` and `rejected`: each a text, or messages as UltraFeedback has
them, where chosen and rejected may repeat the prompt and `prompt` may be missing. Rows of single
answers have `prompt`, `completion` and `label` (true, false, 1, 0). All rows that are no
preferences are told at once. The rules of `data.cleaning` hold for both answers, and drop a row as
a whole.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer import defaults
from trainer.config_loading import LoadedConfig
from trainer.data.clean_rows import RenamedRows
from trainer.data.cleaning import HeldOutPrompts, RowCleaner
from trainer.data.conversation import ASSISTANT, USER, Conversation, Turn
from trainer.data.examples import Example, ListedExamples
from trainer.data.formats import RowFormat
from trainer.data.preparation import PreparedData
from trainer.data.rules import CleaningLog, Rule
from trainer.data.turn_lists import read_turns
from trainer.errors import DataError
from trainer.labels import ConversationLabeller, LabelledRow

Row = Mapping[str, Any]

MAX_PROBLEMS = 20
"""Rows that are named one by one; of more the number is told."""

_PAIR_COLUMNS = frozenset({"chosen", "rejected"})
_SINGLE_COLUMNS = frozenset({"prompt", "completion", "label"})
PAIRS = RowFormat("preference", "prompt, chosen, rejected", _PAIR_COLUMNS, lambda row: None)
SINGLES = RowFormat("labelled", "prompt, completion, label", _SINGLE_COLUMNS, lambda row: None)


@dataclass(frozen=True, slots=True)
class PreferenceExample(Example):
    """`row` is the chosen, or the judged, answer after its prompt; only that answer carries loss.

    `other` is the rejected answer after the same prompt; for a judged answer, the answer of
    another row after this prompt, by which KTO estimates how far the model has moved. `is_good`
    is what was judged; chosen answers are good.
    """

    other: LabelledRow
    is_good: bool = True

    def __len__(self) -> int:
        """Tokens of both, which go through the model together."""
        return len(self.row) + len(self.other)


@dataclass(frozen=True, slots=True)
class _Judged:
    prompt: tuple[Turn, ...]
    answer: str
    rejected: str | None
    is_good: bool

    @property
    def conversation(self) -> Conversation:
        return Conversation((*self.prompt, Turn(ASSISTANT, self.answer)))

    @property
    def whole(self) -> Conversation:
        """All of it, for comparing rows: equal rows are duplicates, near ones nearly so."""
        judged = Turn(str(self.is_good), self.rejected or "")
        return Conversation((*self.conversation.turns, judged))


def prepare_preferences(loaded: LoadedConfig, labeller: ConversationLabeller) -> PreparedData:
    """Read, check, split and tokenise the rows of a preference run.

    Raises `DataError` with every row that can't be used, or when nothing is left.
    """
    section, seed = loaded.config.data, loaded.config.seed
    single = loaded.config.objective == "kto"
    log = CleaningLog()
    train, num_read = _read(loaded, section.train, single, log)
    if isinstance(section.eval, str):
        held_out, more = _read(loaded, section.eval, single, log)
        num_read += more
        held_out = _drawn(held_out, section.max_eval_rows, seed)[0]
        notes = [f"held out: {len(held_out)} rows of {section.eval}"]
    else:
        enough = min(defaults.MIN_EVAL_ROWS, len(train) // 5)
        count = min(max(round(section.eval * len(train)), enough, 1), section.max_eval_rows)
        held_out, train = _drawn(train, count, seed)
        notes = [f"held out: {count} rows drawn from {section.train} (data.eval {section.eval:g})"]
    if section.max_train_rows is not None and section.max_train_rows < len(train):
        notes.append(f"max_train_rows: {section.max_train_rows} of {len(train)} rows drawn")
        train = _drawn(train, section.max_train_rows, seed)[0]
    prompts = HeldOutPrompts((row.conversation for row in held_out), section.cleaning, log)
    kept = [row for row in train if prompts.allows(row.conversation)]
    splits = [
        _examples(rows, labeller, section.max_length, section.over_length, log, what)
        for rows, what in ((kept, "train on"), (held_out, "evaluate on"))
    ]
    sha = hashlib.sha256()
    for name, rows in (("train", kept), ("eval", held_out)):
        sha.update(f"{name}\n".encode())
        for row in rows:
            sha.update(row.whole.key.encode() + b"\n")
    return PreparedData(
        train=ListedExamples(splits[0]),
        held_out=ListedExamples(splits[1]),
        row_format=SINGLES if single else PAIRS,
        num_rows_read=num_read,
        counts=dict(log.counts),
        digest="sha256:" + sha.hexdigest(),
        notes=tuple(notes),
        examples={rule: tuple(texts) for rule, texts in log.examples.items()},
    )


def pair_lengths(data: PreparedData) -> list[range]:
    """Something as long as both answers of each training example, for the plan."""
    return [range(len(example)) for example in preferences(data.train)]


def preferences(examples: Sequence[Example]) -> list[PreferenceExample]:
    """The examples of a preference run, as what they are."""
    found = [example for example in examples if isinstance(example, PreferenceExample)]
    assert len(found) == len(examples)
    return found


def _read(
    loaded: LoadedConfig, reference: str, single: bool, log: CleaningLog
) -> tuple[list[_Judged], int]:
    """Clean rows in file order, and how many were read."""
    section = loaded.config.data
    problems: Counter[str] = Counter()
    named: list[str] = []
    kept: list[_Judged] = []
    cleaner = RowCleaner(section.cleaning, section.system, log)
    rows = RenamedRows(loaded.data_path(reference), reference, section)
    for number, row in enumerate(rows, 1):
        found = _single(row) if single else _pair(row)
        if isinstance(found, str):
            problems[found] += 1
            if len(named) < MAX_PROBLEMS:
                named.append(f"row {number}: {found}")
        elif (cleaned := _clean(found, cleaner, log)) is not None:
            kept.append(cleaned)
    if problems:
        total = sum(problems.values())
        more = f"\n... and {total - len(named)} more" if total > len(named) else ""
        wants = ", ".join(sorted(_SINGLE_COLUMNS)) if single else "prompt, chosen, rejected"
        raise DataError(
            f"{total} of {rows.num_read} rows of {reference} are no preferences; objective "
            f"{loaded.config.objective} wants {wants}:\n" + "\n".join(named) + more
        )
    if not kept:
        raise DataError(f"no row of {reference} is left after cleaning")
    return kept, rows.num_read


def _clean(row: _Judged, cleaner: RowCleaner, log: CleaningLog) -> _Judged | None:
    """The row by the rules of `data.cleaning`; None when one of them drops it."""
    turns = cleaner.tidy(row.conversation.turns)
    if turns is None:
        return None
    rejected = row.rejected
    if rejected is not None:
        other = cleaner.tidy_answer(Turn(ASSISTANT, rejected))
        if other is None:
            return None
        rejected = other.content
        if rejected == turns[-1].content:
            log.record(Rule.SAME_ANSWERS, rejected)
            return None
    cleaned = _Judged(turns[:-1], turns[-1].content, rejected, row.is_good)
    return None if cleaner.is_known(cleaned.whole) else cleaned


def _pair(row: Row) -> _Judged | str:
    """The pair of a row, or what is wrong with it."""
    missing = sorted(column for column in _PAIR_COLUMNS if row.get(column) is None)
    if missing:
        return f"{' and '.join(missing)} missing"
    chosen, rejected = _turns(row["chosen"], ASSISTANT), _turns(row["rejected"], ASSISTANT)
    if chosen is None or rejected is None:
        return "chosen and rejected must be texts or lists of messages"
    prompt = () if row.get("prompt") is None else _turns(row["prompt"], USER)
    if prompt is None:
        return "prompt must be a text or a list of messages"
    if len(chosen) > 1 or len(rejected) > 1:  # the conversation is repeated in both
        if chosen[:-1] != rejected[:-1]:
            return "chosen and rejected differ before their last turn"
        prompt = chosen[:-1]
    problem = _wrong(prompt, chosen[-1]) or _wrong(prompt, rejected[-1])
    if problem is None and chosen[-1].content.strip() == rejected[-1].content.strip():
        problem = "chosen and rejected are the same"
    return problem or _Judged(prompt, chosen[-1].content, rejected[-1].content, True)


def _single(row: Row) -> _Judged | str:
    missing = sorted(column for column in _SINGLE_COLUMNS if row.get(column) is None)
    if missing:
        return f"{' and '.join(missing)} missing"
    label = row["label"]
    if label not in (True, False):
        return f"label must be true or false, it is {label!r}"
    prompt, answer = _turns(row["prompt"], USER), _turns(row["completion"], ASSISTANT)
    if prompt is None or answer is None:
        return "prompt and completion must be texts or lists of messages"
    prompt = (*prompt, *answer[:-1])
    return _wrong(prompt, answer[-1]) or _Judged(prompt, answer[-1].content, None, bool(label))


def _turns(value: Any, role: str) -> tuple[Turn, ...] | None:
    if isinstance(value, str):
        return (Turn(role, value),)
    found = read_turns(value, role_key="role", content_key="content")
    return found.turns if found is not None and found.turns else None


def _wrong(prompt: Sequence[Turn], answer: Turn) -> str | None:
    """What keeps these turns from being an answer to something."""
    if answer.role != ASSISTANT:
        return f"the last turn must be the assistant's, it is {answer.role}'s"
    return None if prompt else "there is no prompt"


def _drawn(rows: list[_Judged], count: int, seed: int) -> tuple[list[_Judged], list[_Judged]]:
    """`count` rows drawn with the seed, in file order, and the rest."""
    drawn = set(random.Random(seed).sample(range(len(rows)), min(count, len(rows))))
    return (
        [row for i, row in enumerate(rows) if i in drawn],
        [row for i, row in enumerate(rows) if i not in drawn],
    )


def _examples(
    rows: Sequence[_Judged],
    labeller: ConversationLabeller,
    max_length: int,
    over_length: str,
    log: CleaningLog,
    what: str,
) -> list[PreferenceExample]:
    examples = []
    for index, judged in enumerate(rows):
        # KTO's stray answer: that of the row before, so that all answers are used alike.
        stray = judged.rejected if judged.rejected is not None else rows[index - 1].answer
        row = _answer_row(labeller, judged.prompt, judged.answer)
        other = _answer_row(labeller, judged.prompt, stray)
        if max(len(row), len(other)) > max_length:
            if over_length == "fail":
                raise DataError(
                    f"a row has {max(len(row), len(other))} tokens, more than data.max_length "
                    f"{max_length}: {judged.prompt[-1].content[:60]!r}... Raise it, or set "
                    "data.over_length to drop"
                )
            log.record(Rule.TOO_LONG, judged.prompt[-1].content)
            continue
        examples.append(PreferenceExample(judged.conversation, row, other, judged.is_good))
    if not examples:
        raise DataError(f"no preference is left to {what} within data.max_length {max_length}")
    return examples


def _answer_row(labeller: ConversationLabeller, prompt: Sequence[Turn], answer: str) -> LabelledRow:
    """Prompt and answer, of which only that last answer carries loss."""
    labelled = labeller.label(Conversation((*prompt, Turn(ASSISTANT, answer))))[-1].row
    start = len(labeller.prompt_ids(prompt))
    mask = tuple(
        carries and position >= start for position, carries in enumerate(labelled.carries_loss)
    )
    return LabelledRow(labelled.token_ids, mask)
