"""Lists of messages, in the spellings that data sets have for roles, texts and tool calls."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.base.chat_messages import ShapeError, joined_texts, template_calls, template_tools
from trainer.data.conversation import ASSISTANT, SYSTEM, TOOL, USER, Turn
from trainer.data.formats.source_row import shown
from trainer.errors import RowError, UnreadableRowError

ROLES = {
    "human": USER, "user": USER, "prompter": USER, "instruction": USER, "question": USER,
    "gpt": ASSISTANT, "assistant": ASSISTANT, "bot": ASSISTANT, "chatgpt": ASSISTANT,
    "bing": ASSISTANT, "bard": ASSISTANT, "claude": ASSISTANT, "model": ASSISTANT,
    "answer": ASSISTANT, "function_call": ASSISTANT,
    "system": SYSTEM, "developer": SYSTEM,
    "tool": TOOL, "function": TOOL, "observation": TOOL, "tool_response": TOOL,
}  # fmt: skip
"""Who wrote a turn, by the names that people's data uses; letter case doesn't matter."""

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")

_CALL_ROLE = "function_call"
_REASONING = ("reasoning_content", "reasoning", "thinking")
_WEIGHTS = ("weight", "loss_weight", "train")
_KNOWN = frozenset(
    {"name", "tool_calls", "function_call", "tool_call_id", "refusal", *_REASONING, *_WEIGHTS}
)
_REFUSED = {
    "train_detail": "loss on parts of a message isn't known here; use train: true or false",
    "images": "the base reads text only", "audios": "the base reads text only",
    "videos": "the base reads text only", "audio": "the base reads text only",
}  # fmt: skip


@dataclass(slots=True)
class TurnReader:
    """Reads lists of messages; `role_keys` and `content_keys` are tried in their order.

    Collects in `unused` the keys of messages that it has no use for.
    """

    role_keys: tuple[str, ...] = ROLE_KEYS
    content_keys: tuple[str, ...] = CONTENT_KEYS
    unused: set[str] = field(default_factory=set)

    def turns(self, value: Any, name: str) -> tuple[Turn, ...]:
        """The turns of the list in the column `name`.

        A role that `ROLES` doesn't know stays as it is written: cleaning tells it. Raises
        `UnreadableRowError` when it is no such list or a text is missing, `RowError` for what
        would change the meaning if it were left out.
        """
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _decoded(value)  # a cell of a CSV
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UnreadableRowError(name, f"{shown(value)} is no list of messages")
        return tuple(self.turn(item, f"{name}[{index}]") for index, item in enumerate(value))

    def turn(self, item: Any, name: str) -> Turn:
        """One message. Raises as `turns` does."""
        if not isinstance(item, Mapping):
            raise UnreadableRowError(name, f"{shown(item)} is no message")
        role_key, written = _first(item, self.role_keys)
        if not isinstance(written, str):
            raise UnreadableRowError(f"{name}.{role_key}", f"{shown(written)} is no role")
        role = ROLES.get(written.strip().lower(), written)
        content_key, raw = _first(item, self.content_keys)
        for key, why in _REFUSED.items():
            if item.get(key):
                raise RowError(f"{name}.{key}", why)
        known = _KNOWN | {role_key, content_key}
        self.unused |= {key for key, given in item.items() if given is not None} - known
        if role != TOOL and item.get("tool_call_id"):
            self.unused.add("tool_call_id")
        calls = self._calls(item, name)
        content, reasoning = self._content(raw, f"{name}.{content_key}", calls)
        if content is None and isinstance(item.get("refusal"), str):
            content = item["refusal"]
        if content is None and not calls:
            raise UnreadableRowError(f"{name}.{content_key}", f"{shown(raw)} is no text")
        if written.strip().lower() == _CALL_ROLE:
            calls += _calls(content or "", f"{name}.{content_key}")
            content = ""
            if not calls:
                raise UnreadableRowError(f"{name}.{content_key}", "there is no call in it")
        if calls and role != ASSISTANT:
            raise RowError(f"{name}.tool_calls", f"only an assistant calls tools, not {written}")
        return Turn(
            role,
            content or "",
            json.dumps(calls, ensure_ascii=False) if calls else "",
            name=_text(item, "name", name),
            tool_call_id=_text(item, "tool_call_id", name) if role == TOOL else None,
            reasoning=reasoning + _reasoning(item, name, role),
            is_trained=_is_trained(item, name, role),
        )

    def _calls(self, item: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        """`tool_calls` and the older `function_call`."""
        calls = _calls(item.get("tool_calls"), f"{name}.")
        older = item.get("function_call")
        return calls + (_calls([older], f"{name}.function_call: ") if older else [])

    def _content(self, raw: Any, name: str, calls: list[dict[str, Any]]) -> tuple[str | None, str]:
        """Text and reasoning of a content; parts that are calls are added to `calls`."""
        if raw is None or isinstance(raw, str):
            return raw, ""
        if not isinstance(raw, Sequence):
            return None, ""
        texts: list[str] = []
        reasoning = ""
        for index, part in enumerate(raw):
            if isinstance(part, str):
                texts.append(part)
                continue
            if not isinstance(part, Mapping):
                raise UnreadableRowError(f"{name}[{index}]", f"{shown(part)} is no part of a text")
            kind = part.get("type", "text")
            key, value = _first(part, ("refusal",) if kind == "refusal" else ("text", "value"))
            if kind in ("tool_call", "tool_calls", "function_call"):
                calls += _calls(value, f"{name}[{index}].")
            elif kind in ("reasoning", "thinking") and isinstance(value, str):
                reasoning += value
            elif kind not in ("text", "input_text", "output_text", "refusal"):
                raise RowError(f"{name}[{index}]", f"is of type {kind!r}; the base reads text only")
            elif not isinstance(value, str):
                raise UnreadableRowError(f"{name}[{index}].{key}", f"{shown(value)} is no text")
            else:
                texts.append(value)
        return joined_texts(texts) if texts or not calls else None, reasoning


def without_foreign_nulls(turns: Sequence[Turn], tools: str) -> tuple[Turn, ...]:
    """Calls without null arguments that their tool doesn't know: other rows' fields, from a file
    that was a table once."""
    declared = {
        tool["function"]["name"]: (tool["function"]["parameters"].get("properties") or {}).keys()
        for tool in (json.loads(tools) if tools else ())
    }
    return tuple(
        replace(turn, tool_calls=_declared(turn.tool_calls, declared)) if turn.tool_calls else turn
        for turn in turns
    )


def _declared(calls: str, declared: Mapping[str, Collection[str]]) -> str:
    parsed = json.loads(calls)
    for call in parsed:
        function = call["function"]
        known = declared.get(function["name"])
        if known is not None:
            function["arguments"] = {
                name: value
                for name, value in function["arguments"].items()
                if value is not None or name in known
            }
    return json.dumps(parsed, ensure_ascii=False)


def alternating(texts: Any, name: str) -> tuple[Turn, ...]:
    """A list of texts: user and assistant in turn."""
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        raise UnreadableRowError(name, f"{shown(texts)} is no list of texts")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UnreadableRowError(f"{name}[{index}]", f"{shown(text)} is no text")
    roles = (USER, ASSISTANT)
    return tuple(Turn(roles[i % 2], text) for i, text in enumerate(texts))


def tools_json(value: Any, name: str) -> str:
    """Canonical JSON of the tools in the column `name`; "" for none. Raises `RowError`."""
    try:
        tools = template_tools(value)
    except ShapeError as error:
        raise RowError(error.field.replace("tools", name, 1), error.text) from error
    return json.dumps(tools, ensure_ascii=False) if tools else ""


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _calls(value: Any, name: str) -> list[dict[str, Any]]:
    try:
        return template_calls(value)
    except ShapeError as error:
        if name.endswith((".", ": ")):
            raise RowError(f"{name}{error.field}", error.text) from error
        raise RowError(name, f"{error.field}: {error.text}") from error


def _first(item: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, Any]:
    """The first of `keys` that `item` has, with its value."""
    for key in keys:
        if item.get(key) is not None:
            return key, item[key]
    return next((key for key in keys if key in item), keys[0]), None


def _text(item: Mapping[str, Any], key: str, name: str) -> str | None:
    value = item.get(key)
    if value is not None and not isinstance(value, str):
        raise RowError(f"{name}.{key}", f"{shown(value)} is no text")
    return value


def _reasoning(item: Mapping[str, Any], name: str, role: str) -> str:
    for key in _REASONING:
        value = item.get(key)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or role != ASSISTANT:
            what = f"{shown(value)} is no text" if role == ASSISTANT else f"{role} doesn't reason"
            raise RowError(f"{name}.{key}", what)
        return value
    return ""


def _is_trained(item: Mapping[str, Any], name: str, role: str) -> bool:
    """By `weight`, `loss_weight` or `train`; they say the same where there are several."""
    verdicts: dict[str, bool] = {}
    for key in _WEIGHTS:
        value = item.get(key)
        if value is None:
            continue
        if isinstance(value, str) or value not in (0, 1):
            what = "true or false" if key == "train" else "0 or 1"
            raise RowError(
                f"{name}.{key}", f"{shown(value)} is neither {what.replace(' or', ' nor')}"
            )
        verdicts[key] = bool(value)
    if len(set(verdicts.values())) > 1:
        raise RowError(f"{name}.{' and '.join(verdicts)}", "contradict each other")
    if role != ASSISTANT and any(verdicts.values()):
        key = next(iter(verdicts))
        raise RowError(f"{name}.{key}", f"loss is on assistants' messages only, not on {role}'s")
    return all(verdicts.values())
