"""The row formats that people's data comes in, recognised by their columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.conversation import ASSISTANT, SYSTEM, USER, Conversation, Turn
from trainer.errors import UnknownFormatError

Row = Mapping[str, Any]

_ROLES = {
    "human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "bot": ASSISTANT,
    "chatgpt": ASSISTANT, "model": ASSISTANT, "system": SYSTEM,
}  # fmt: skip


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


def _from_messages(row: Row) -> Conversation | None:
    return _turns(row.get("messages"), role_key="role", content_key="content")


def _from_conversations(row: Row) -> Conversation | None:
    conversation = _turns(row.get("conversations"), role_key="from", content_key="value")
    system = row.get("system")
    if conversation is None or not isinstance(system, str) or not system.strip():
        return conversation
    return Conversation((Turn(SYSTEM, system), *conversation.turns))


def _turns(value: Any, *, role_key: str, content_key: str) -> Conversation | None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    turns: list[Turn] = []
    for item in value:
        if not isinstance(item, Mapping):
            return None
        role, content = item.get(role_key), _text(item.get(content_key))
        if not isinstance(role, str) or content is None:
            return None
        turns.append(Turn(_ROLES.get(role.strip().lower(), role), content))
    return Conversation(tuple(turns))


def _text(content: Any) -> str | None:
    """Text, or the joined text parts of OpenAI's list form; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return None
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts and len(texts) == len(content) else None


def _from_instruction(row: Row) -> Conversation | None:
    instruction, answer = row.get("instruction"), row.get("output")
    extra, system = row.get("input"), row.get("system")
    if not isinstance(instruction, str) or not isinstance(answer, str):
        return None
    if not isinstance(extra, str | None) or not isinstance(system, str | None):
        return None
    question = f"{instruction}\n\n{extra}" if extra and extra.strip() else instruction
    turns: tuple[Turn, ...] = (Turn(USER, question), Turn(ASSISTANT, answer))
    if system and system.strip():
        turns = (Turn(SYSTEM, system), *turns)
    return Conversation(turns)


def _from_prompt(row: Row) -> Conversation | None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return Conversation((Turn(USER, prompt), Turn(ASSISTANT, completion)))
    before = _turns(prompt, role_key="role", content_key="content")
    after = _turns(completion, role_key="role", content_key="content")
    if before is None or after is None:
        return None
    return Conversation(before.turns + after.turns)


FORMATS: tuple[RowFormat, ...] = (
    RowFormat("messages", "OpenAI chat messages", frozenset({"messages"}), _from_messages),
    RowFormat(
        "conversations",
        "ShareGPT conversations with from and value",
        frozenset({"conversations"}),
        _from_conversations,
    ),
    RowFormat(
        "instruction",
        "instruction, input, output (Alpaca)",
        frozenset({"instruction", "output"}),
        _from_instruction,
    ),
    RowFormat(
        "prompt",
        "prompt and completion, taken as one question and its answer",
        frozenset({"prompt", "completion"}),
        _from_prompt,
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
        f"Needed for {known}. Rename the columns, or set data.format"
    )
