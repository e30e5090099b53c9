"""Formats of judged rows: which of two answers is better, or whether one answer is good.

Pairs have `chosen` and `rejected`: each a text, a message, or messages as UltraFeedback has them,
where both may repeat the prompt. The prompt stands in `prompt`, `question`, `instruction` (with
`input` and `history`), `messages` or `conversations`, or in both answers, also as HH-RLHF's
transcripts. Single answers are rows of a supervised format with a verdict in `label` or `kto_tag`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from trainer.data.conversation import ASSISTANT, SYSTEM, USER, Turn
from trainer.data.formats.formats import (
    FORMATS,
    SYSTEM_COLUMNS,
    TOOL_COLUMNS,
    VERDICTS,
    RowFormat,
    asked_by_instruction,
    conversation_of,
    text_or_turns,
    verdict,
)
from trainer.data.formats.source_row import Row, shown
from trainer.data.formats.turn_lists import TurnReader, without_foreign_nulls
from trainer.data.judged import DataRow
from trainer.errors import RowError

_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
_PAIR_COLUMNS = frozenset({"chosen", "rejected"})
_MESSAGE_COLUMNS = frozenset({"chosen_messages", "rejected_messages"})


def _from_pair(row: Row, reader: TurnReader) -> DataRow:
    return _pair(row, reader, "chosen", "rejected")


def _from_message_pair(row: Row, reader: TurnReader) -> DataRow:
    return _pair(row, reader, "chosen_messages", "rejected_messages")


def _from_openai_pair(row: Row, reader: TurnReader) -> DataRow:
    asked = row.get("input")
    if not isinstance(asked, Mapping):
        raise RowError("input", f"{shown(asked)} is no object with messages")
    beside = {name: value for name, value in asked.items() if value is not None}
    reader.unused |= beside.keys() - {"messages", *SYSTEM_COLUMNS, *TOOL_COLUMNS}
    return _pair({**row, **beside}, reader, "preferred_output", "non_preferred_output")


def _pair(row: Row, reader: TurnReader, good: str, bad: str) -> DataRow:
    missing = [column for column in (good, bad) if row.get(column) is None]
    if missing:
        raise RowError(" and ".join(missing), "missing")
    chosen, rejected = _answer(row, good, reader), _answer(row, bad, reader)
    prompt = _prompt(row, reader)
    if chosen[:-1] != rejected[:-1]:
        raise RowError(f"{good} and {bad}", "differ before their last turn")
    if chosen[0].role in (SYSTEM, USER):  # the conversation is repeated in both
        if len(prompt) > 1 and _said(prompt) != _said(chosen[:-1])[-len(prompt) :]:
            raise RowError(good, "begins with another conversation than the prompt beside it")
        prompt = chosen[:-1]
    else:
        prompt = (*prompt, *chosen[:-1])
    for column, turns in ((good, chosen), (bad, rejected)):
        if turns[-1].role != ASSISTANT:
            raise RowError(
                column, f"the last turn must be the assistant's, it is {turns[-1].role}'s"
            )
        if not turns[-1].is_trained:
            raise RowError(column, "has weight 0, and it is what the objective compares")
    if not prompt:
        raise RowError("prompt", "there is no prompt")
    if _said(chosen[-1:]) == _said(rejected[-1:]):
        raise RowError(f"{good} and {bad}", "are the same")
    conversation = conversation_of((*prompt, chosen[-1]), row)
    (other,) = without_foreign_nulls(rejected[-1:], conversation.tools)
    return DataRow(conversation, other)


def _said(turns: tuple[Turn, ...]) -> list[tuple[str, str, str]]:
    return [(turn.role, turn.content.strip(), turn.tool_calls) for turn in turns]


def _answer(row: Row, column: str, reader: TurnReader) -> tuple[Turn, ...]:
    value = row.get(column)
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        return _transcript(value, column)
    return text_or_turns(row, column, ASSISTANT, reader)


def _transcript(text: str, column: str) -> tuple[Turn, ...]:
    """HH-RLHF's conversations, of which one blank follows each name."""
    _, *parts = _TRANSCRIPT.split(text)
    roles = {"Human": USER, "Assistant": ASSISTANT}
    turns = tuple(
        Turn(roles[who], said.removeprefix(" "))
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    )
    if len(turns) < 2:
        raise RowError(column, f"{shown(text)} has no answer")
    return turns


def _prompt(row: Row, reader: TurnReader) -> tuple[Turn, ...]:
    for column in ("prompt", "question"):
        if row.get(column) is not None:
            return text_or_turns(row, column, USER, reader)
    for column in ("messages", "conversations"):
        if row.get(column) is not None:
            return reader.turns(row[column], column)
    return asked_by_instruction(row) if row.get("instruction") is not None else ()


_OPENAI_COLUMNS = frozenset({"input", "preferred_output", "non_preferred_output"})
_PROMPTS = frozenset(
    {"prompt", "question", "messages", "conversations", "instruction", "input", "history"}
)

PAIR_FORMATS = (
    RowFormat(
        "preference", "prompt, chosen, rejected", _PAIR_COLUMNS, _from_pair, optional=_PROMPTS
    ),
    RowFormat(
        "preference",
        "chosen_messages and rejected_messages (LLaMA-Factory)",
        _MESSAGE_COLUMNS,
        _from_message_pair,
        optional=_PROMPTS,
    ),
    RowFormat(
        "preference",
        "input, preferred_output, non_preferred_output (OpenAI)",
        _OPENAI_COLUMNS,
        _from_openai_pair,
    ),
)


def _judged(base: RowFormat, column: str) -> RowFormat:
    """Rows of a supervised format whose last answer was judged in `column`."""

    def convert(row: Row, reader: TurnReader) -> DataRow:
        missing = sorted(name for name in (*base.columns, column) if row.get(name) is None)
        if missing:
            raise RowError(" and ".join(missing), "missing")
        is_good = verdict(row[column])
        if is_good is None:
            raise RowError(column, f"must be true or false, it is {shown(row[column])}")
        found = base.convert(row, reader)
        turns = found.conversation.turns
        if turns[-1].role != ASSISTANT:
            raise RowError(
                sorted(base.columns)[0],
                f"the last turn must be the assistant's, it is {turns[-1].role}'s",
            )
        if not turns[-1].is_trained:
            raise RowError(column, "judges an answer of weight 0")
        if len(turns) < 2:
            raise RowError("prompt", "there is no prompt")
        return replace(found, is_good=is_good)

    return RowFormat(
        "labelled", f"{base.description}, with {column}", base.columns | {column}, convert,
        base.optional, base.beside,
    )  # fmt: skip


_SINGLE_NAMES = ("prompt", "messages", "conversations", "instruction", "openorca")
_BY_NAME: dict[str, RowFormat] = {row_format.name: row_format for row_format in FORMATS}
JUDGED_FORMATS = tuple(
    _judged(_BY_NAME[name], column) for name in _SINGLE_NAMES for column in VERDICTS
)
