"""Lists of messages, in the spellings that data sets have for roles, texts and tool calls."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.conversation import ASSISTANT, SYSTEM, TOOL, USER, Conversation, Turn

ROLES = {
    "human": USER, "user": USER, "prompter": USER, "instruction": USER, "question": USER,
    "gpt": ASSISTANT, "assistant": ASSISTANT, "bot": ASSISTANT, "chatgpt": ASSISTANT,
    "bing": ASSISTANT, "bard": ASSISTANT, "claude": ASSISTANT, "model": ASSISTANT,
    "answer": ASSISTANT, "function_call": ASSISTANT,
    "system": SYSTEM, "developer": SYSTEM,
    "tool": TOOL, "function": TOOL, "observation": TOOL, "tool_response": TOOL,
}  # fmt: skip
"""Who wrote a turn, by the names that people's data uses; letter case doesn't matter."""

_CALL_ROLE = "function_call"


def read_turns(value: Any, *, role_key: str, content_key: str) -> Conversation | None:
    """The turns of a list of mappings; None when it is no such list or a text is missing.

    A role that `ROLES` doesn't know stays as it is written: cleaning tells it.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    turns: list[Turn] = []
    for item in value:
        if not isinstance(item, Mapping):
            return None
        turn = _turn(item, role_key, content_key)
        if turn is None:
            return None
        turns.append(turn)
    return Conversation(tuple(turns))


def alternating(texts: Any) -> Conversation | None:
    """A list of texts: user and assistant in turn."""
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        return None
    if not all(isinstance(text, str) for text in texts):
        return None
    roles = (USER, ASSISTANT)
    return Conversation(tuple(Turn(roles[i % 2], text) for i, text in enumerate(texts)))


def canonical_json(value: Any) -> str:
    """Compact JSON of `value`, or of the JSON text that it is; "" for nothing."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return ""
    return json.dumps(value, ensure_ascii=False) if value else ""


def text_of(content: Any) -> str | None:
    """Text, or the joined text parts of OpenAI's list form; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return None
    parts = [part.get("text") for part in content if isinstance(part, Mapping)]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts and len(texts) == len(content) else None


def _turn(item: Mapping[str, Any], role_key: str, content_key: str) -> Turn | None:
    role, content = item.get(role_key), text_of(item.get(content_key))
    calls = canonical_json(_without_nulls(item.get("tool_calls")))
    if content is None and calls:
        content = ""
    if not isinstance(role, str) or content is None:
        return None
    written = role.strip().lower()
    if written == _CALL_ROLE:
        call = _one_call(content)
        return None if call is None else Turn(ASSISTANT, "", call)
    return Turn(ROLES.get(written, role), content, calls)


def _one_call(content: str) -> str | None:
    """ShareGPT's `function_call` turn: a JSON object, or a list of them, as the text of a turn."""
    calls = canonical_json(content)
    if not calls:
        return None
    value = json.loads(calls)
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(call, dict) and "name" in call for call in listed):
        return None
    return canonical_json([{"type": "function", "function": call} for call in listed])


def _without_nulls(value: Any) -> Any:
    """Arrow gives every struct all fields of all rows; those that a row lacks are None."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nulls(item) for item in value]
    return value
