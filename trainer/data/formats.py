"""The row formats that people's data comes in, recognised by their columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainer.data.conversation import ASSISTANT, SYSTEM, TEXT, USER, Conversation, Turn
from trainer.data.turn_lists import alternating, canonical_json, read_turns
from trainer.errors import DataError, UnknownFormatError

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """One way of writing a row.

    `columns` must all be there. `convert` returns None for a row that lacks what the format
    promises (a missing answer, a number where text belongs).
    """

    name: str
    description: str
    columns: frozenset[str]
    convert: Callable[[Row], Conversation | None]


def _with_system(conversation: Conversation | None, row: Row, column: str) -> Conversation | None:
    system = row.get(column)
    if conversation is None or not isinstance(system, str) or not system.strip():
        return conversation
    if conversation.turns and conversation.turns[0].role == SYSTEM:
        return conversation
    return replace(conversation, turns=(Turn(SYSTEM, system), *conversation.turns))


def _with_tools(conversation: Conversation | None, row: Row) -> Conversation | None:
    tools = canonical_json(row.get("tools"))
    return replace(conversation, tools=tools) if conversation is not None else None


def _from_messages(row: Row) -> Conversation | None:
    turns = read_turns(row.get("messages"), role_key="role", content_key="content")
    return _with_tools(turns, row)


def _from_conversations(row: Row) -> Conversation | None:
    value = row.get("conversations")
    conversation = read_turns(value, role_key="from", content_key="value")
    if conversation is None:
        conversation = read_turns(value, role_key="role", content_key="content")
    return _with_tools(_with_system(conversation, row, "system"), row)


def _from_instruction(row: Row) -> Conversation | None:
    instruction, answer = row.get("instruction"), row.get("output")
    extra, system = row.get("input"), row.get("system")
    if not isinstance(instruction, str) or not isinstance(answer, str):
        return None
    if not isinstance(extra, str | None) or not isinstance(system, str | None):
        return None
    question = f"{instruction}\n\n{extra}" if extra and extra.strip() else instruction
    turns = (*_history(row.get("history")), Turn(USER, question), Turn(ASSISTANT, answer))
    return _with_system(Conversation(turns), row, "system")


def _history(pairs: Any) -> tuple[Turn, ...]:
    """Alpaca's optional earlier questions and answers: a list of pairs."""
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        return ()
    turns: list[Turn] = []
    for pair in pairs:
        if isinstance(pair, Sequence) and len(pair) == 2:
            turns += [Turn(USER, str(pair[0])), Turn(ASSISTANT, str(pair[1]))]
    return tuple(turns)


def _from_openorca(row: Row) -> Conversation | None:
    question, answer = row.get("question"), row.get("response")
    if not isinstance(question, str) or not isinstance(answer, str):
        return None
    turns = (Turn(USER, question), Turn(ASSISTANT, answer))
    return _with_system(Conversation(turns), row, "system_prompt")


def _from_ultrachat(row: Row) -> Conversation | None:
    return alternating(row.get("data"))


def _from_prompt(row: Row) -> Conversation | None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return Conversation((Turn(USER, prompt), Turn(ASSISTANT, completion)))
    before = read_turns(prompt, role_key="role", content_key="content")
    after = read_turns(completion, role_key="role", content_key="content")
    if before is None or after is None:
        return None
    return Conversation(before.turns + after.turns)


def _from_text(row: Row) -> Conversation | None:
    text = row.get("text")
    return Conversation((Turn(TEXT, text),)) if isinstance(text, str) else None


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
    ),
)


def choose_format(wanted: str, columns: Sequence[str], source: str) -> RowFormat:
    """The format named `wanted`, or with `auto` the first whose columns are all in `columns`.

    Raises `UnknownFormatError`, naming the columns of `source` and what each format needs.
    """
    there = frozenset(columns)
    for row_format in FORMATS:
        if wanted in ("auto", row_format.name) and row_format.columns <= there:
            return row_format
    known = "; ".join(
        f"{f.name}: {', '.join(sorted(f.columns))}" for f in FORMATS if wanted in ("auto", f.name)
    )
    raise UnknownFormatError(
        f"{source} has the columns {', '.join(sorted(there)) or '(none)'}, which fit no format. "
        f"Needed for {known}. Name yours in data.columns (e.g. {{instruction: question_text}}), "
        "or set data.format"
    )


def rename_columns(row: Row, columns: Mapping[str, str], source: str) -> Row:
    """`row` under the names of our formats; `columns` maps our name to the file's.

    Raises `DataError` for a column that the row doesn't have.
    """
    if not columns:
        return row
    missing = sorted(theirs for theirs in columns.values() if theirs not in row)
    if missing:
        raise DataError(
            f"data.columns names {', '.join(missing)}, but {source} has only the columns "
            f"{', '.join(sorted(row))}"
        )
    taken = set(columns.values())
    renamed = {name: value for name, value in row.items() if name not in taken}
    return {**renamed, **{ours: row[theirs] for ours, theirs in columns.items()}}
