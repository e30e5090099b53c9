"""The row formats that people's data comes in, recognised by their columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.conversation import ASSISTANT, SYSTEM, TEXT, USER, Conversation, Turn
from trainer.data.formats.source_row import Row, shown
from trainer.data.formats.turn_lists import (
    TurnReader,
    alternating,
    tools_json,
    without_foreign_nulls,
)
from trainer.data.judged import DataRow
from trainer.errors import DataError, RowError, UnknownFormatError, UnreadableRowError

_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
SYSTEM_COLUMNS = ("system", "system_prompt")
TOOL_COLUMNS = ("tools", "functions")
VERDICTS = ("label", "kto_tag")
MESSAGE_KEYS = ("role", "content")
"""Names in `data.columns` that are keys of messages, not columns."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """One way of writing a row.

    `columns` must all be there, `optional` ones may be; by default system text and tools may too.
    `convert` raises `UnreadableRowError` for a row that lacks what the format promises (a missing
    answer, a number where text belongs), `RowError` for one that says what can't be honoured.
    """

    name: str
    description: str
    columns: frozenset[str]
    convert: Callable[[Row, TurnReader], DataRow]
    optional: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset({*SYSTEM_COLUMNS, *TOOL_COLUMNS})

    @property
    def used(self) -> frozenset[str]:
        """Every column that the format reads."""
        return self.columns | self.optional | self.beside


def conversation_of(turns: Sequence[Turn], row: Row) -> Conversation:
    """The turns with the system text and the tools that stand beside them in the row.

    Raises `RowError` when two of either say different things.
    """
    tools = {name: tools_json(row.get(name), name) for name in TOOL_COLUMNS}
    tools = {name: text for name, text in tools.items() if text}
    if len(set(tools.values())) > 1:
        raise RowError(" and ".join(tools), "are different tools")
    for name in SYSTEM_COLUMNS:
        turns = _with_system(tuple(turns), row.get(name), name)
    offered = next(iter(tools.values()), "")
    return Conversation(without_foreign_nulls(turns, offered), offered)


def _with_system(turns: tuple[Turn, ...], system: Any, column: str) -> tuple[Turn, ...]:
    if system is None or (isinstance(system, str) and not system.strip()):
        return turns
    if not isinstance(system, str):
        raise UnreadableRowError(column, f"{shown(system)} is no text")
    if turns and turns[0].role == SYSTEM and turns[0].content.strip():
        if turns[0].content.strip() == system.strip():
            return turns
        raise RowError(column, f"{shown(system)}, but the messages have a system text of their own")
    rest = turns[1:] if turns and turns[0].role == SYSTEM else turns
    return (Turn(SYSTEM, system), *rest)


def text_in(row: Row, column: str) -> str:
    """The text in a column. Raises `UnreadableRowError`."""
    value = row.get(column)
    if not isinstance(value, str):
        raise UnreadableRowError(column, f"{shown(value)} is no text")
    return value


def _from_messages(row: Row, reader: TurnReader) -> DataRow:
    return DataRow(conversation_of(reader.turns(row.get("messages"), "messages"), row))


def _from_conversations(row: Row, reader: TurnReader) -> DataRow:
    turns = reader.turns(row.get("conversations"), "conversations")
    return DataRow(conversation_of(turns, row))


def _from_instruction(row: Row, reader: TurnReader) -> DataRow:
    turns = (*asked_by_instruction(row), Turn(ASSISTANT, text_in(row, "output")))
    return DataRow(conversation_of(turns, row))


def asked_by_instruction(row: Row) -> tuple[Turn, ...]:
    """Alpaca's earlier questions and answers, and the question of the row."""
    instruction, extra = text_in(row, "instruction"), row.get("input")
    if not isinstance(extra, str | None):
        raise UnreadableRowError("input", f"{shown(extra)} is no text")
    question = f"{instruction}\n\n{extra}" if extra and extra.strip() else instruction
    return (*_history(row.get("history")), Turn(USER, question))


def _history(pairs: Any) -> tuple[Turn, ...]:
    if pairs is None:
        return ()
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise RowError("history", f"{shown(pairs)} is no list of pairs")
    turns: list[Turn] = []
    for index, pair in enumerate(pairs):
        field = f"history[{index}]"
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise RowError(field, f"{shown(pair)} is no question with its answer")
        for position, text in enumerate(pair):
            if not isinstance(text, str) or not text.strip():
                raise RowError(f"{field}[{position}]", f"{shown(text)} is no text")
        turns += [Turn(USER, pair[0]), Turn(ASSISTANT, pair[1])]
    return tuple(turns)


def _from_openorca(row: Row, reader: TurnReader) -> DataRow:
    turns = (Turn(USER, text_in(row, "question")), Turn(ASSISTANT, text_in(row, "response")))
    return DataRow(conversation_of(turns, row))


def _from_ultrachat(row: Row, reader: TurnReader) -> DataRow:
    return DataRow(conversation_of(alternating(row.get("data"), "data"), row))


def _from_prompt(row: Row, reader: TurnReader) -> DataRow:
    prompt = text_or_turns(row, "prompt", USER, reader)
    return DataRow(
        conversation_of((*prompt, *text_or_turns(row, "completion", ASSISTANT, reader)), row)
    )


def text_or_turns(row: Row, column: str, role: str, reader: TurnReader) -> tuple[Turn, ...]:
    """A column that holds a text of `role`'s, one message, or a list of them."""
    value = row.get(column)
    if isinstance(value, str):
        return (Turn(role, value),)
    if isinstance(value, Mapping):
        return (reader.turn(value, column),)
    if not isinstance(value, Sequence) or not value:
        raise UnreadableRowError(column, f"{shown(value)} must be a text or a list of messages")
    return reader.turns(value, column)


def _from_text(row: Row, reader: TurnReader) -> DataRow:
    return DataRow(Conversation((Turn(TEXT, text_in(row, "text")),)))


FORMATS: tuple[RowFormat, ...] = (
    RowFormat(
        "messages",
        "chat messages (OpenAI, UltraChat 200k)",
        frozenset({"messages"}),
        _from_messages,
    ),
    RowFormat(
        "conversations",
        "conversations with from and value (ShareGPT, BELLE multi-turn)",
        frozenset({"conversations"}),
        _from_conversations,
    ),
    RowFormat(
        "instruction",
        "instruction, input, output (Alpaca, BELLE)",
        frozenset({"instruction", "output"}),
        _from_instruction,
        frozenset({"input", "history"}),
    ),
    RowFormat(
        "openorca",
        "system_prompt, question, response (OpenOrca)",
        frozenset({"question", "response"}),
        _from_openorca,
    ),
    RowFormat(
        "prompt",
        "prompt and completion, taken as one question and its answer",
        frozenset({"prompt", "completion"}),
        _from_prompt,
    ),
    RowFormat(
        "ultrachat",
        "data, a list of texts: user and assistant in turn (UltraChat)",
        frozenset({"data"}),
        _from_ultrachat,
    ),
    RowFormat(
        "text",
        "plain text, all of which carries loss",
        frozenset({"text"}),
        _from_text,
        beside=frozenset(),
    ),
)


def choose_format(
    wanted: str,
    columns: Sequence[str],
    source: str,
    formats: Sequence[RowFormat] = FORMATS,
    hint: str = "",
) -> RowFormat:
    """The format named `wanted`, or with `auto` the first whose columns are all in `columns`.

    Raises `UnknownFormatError`, naming the columns of `source` and what each format needs.
    """
    there = frozenset(columns)
    possible = [f for f in formats if wanted in ("auto", f.name)] or list(formats)
    for row_format in possible:
        if row_format.columns <= there:
            return row_format
    known = "; ".join(f"{f.name}: {', '.join(sorted(f.columns))}" for f in possible)
    raise UnknownFormatError(
        f"{source} has the columns {', '.join(sorted(there)) or '(none)'}, which fit no format. "
        f"Needed for {known}. Name yours in data.columns (e.g. {{instruction: question_text}}), "
        f"or set data.format{hint}"
    )


def refuse_what_is_not_read(row: Row, used: frozenset[str], *, is_text: bool) -> None:
    """Raise `RowError` for a column that says what no text or no such objective can honour."""
    for column in _MEDIA:
        if row.get(column) and column not in used:
            raise RowError(
                column,
                f"{shown(row[column])}: the base reads text only. Remove such rows, or name the "
                "column in data.ignore_columns",
            )
    for column in ("chosen", "rejected"):
        if row.get(column) is not None and column not in used:
            raise RowError(
                column, "is a preference: set objective: dpo or orpo, or data.ignore_columns"
            )
    for column in VERDICTS:
        if column not in used and not is_text and verdict(row.get(column)) is not None:
            raise RowError(
                column,
                f"{shown(row[column])} judges the answer: set objective: kto, or "
                "data.ignore_columns",
            )


def verdict(value: Any) -> bool | None:
    """Whether an answer was judged good: true, false, 1 or 0, also as the cell of a CSV."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def rename_columns(row: Row, columns: Mapping[str, str]) -> Row:
    """`row` under the names of our formats; `columns` maps our name to the file's."""
    if not columns:
        return row
    taken = set(columns.values())
    renamed = {name: value for name, value in row.items() if name not in taken}
    return {**renamed, **{ours: row.get(theirs) for ours, theirs in columns.items()}}


def check_columns(there: Sequence[str], columns: Mapping[str, str], source: str) -> None:
    """Raise `DataError` for a name in `data.columns` that no row has."""
    missing = sorted(theirs for theirs in columns.values() if theirs not in there)
    if missing:
        raise DataError(
            f"data.columns names {', '.join(missing)}, but {source} has only the columns "
            f"{', '.join(sorted(there))}"
        )
