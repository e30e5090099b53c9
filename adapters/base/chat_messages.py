"""Messages, tools and calls in the words of chat templates: what is trained on and what is served.

Trainer and server both make what a template sees with these functions, whatever spelling a data
set or a client has, so that a prompt that is served begins as the row that was trained.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

TemplateMessage = dict[str, Any]
TemplateTool = dict[str, Any]

_SHOWN_CHARS = 60


class ShapeError(ValueError):
    """A message or a tool that has no shape anybody knows; `field` is where it stands."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


def template_message(
    role: str,
    content: str,
    *,
    name: str | None = None,
    tool_call_id: str | None = None,
    tool_calls: Sequence[Mapping[str, Any]] = (),
    reasoning: str = "",
) -> TemplateMessage:
    """One turn. `developer` is the newer word for `system`, `function` the older one for `tool`."""
    roles = {"developer": "system", "function": "tool"}
    message: TemplateMessage = {"role": roles.get(role, role), "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if name is not None:
        message["name"] = name
    if tool_call_id is not None:
        message["tool_call_id"] = tool_call_id
    if tool_calls:
        message["tool_calls"] = [dict(call) for call in tool_calls]
    return message


def joined_texts(texts: Sequence[str]) -> str:
    """The text of a content that came in parts, one part per line."""
    return "\n".join(texts)


def template_call(name: str, arguments: Any, call_id: str = "") -> dict[str, Any]:
    """One call. Templates write the arguments themselves, so they get them as an object."""
    function = {"name": name, "arguments": parsed_arguments(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def parsed_arguments(value: Any) -> Any:
    """The object of arguments that are an object, JSON text, or JSON text written twice.

    Text that isn't JSON stays text, since a model may have written it.
    """
    if value is None or value == "":
        return {}
    found = _decoded(value)
    again = _decoded(found) if isinstance(found, str) else found
    return again if isinstance(again, dict) else found


def _decoded(value: Any) -> Any:
    """What JSON text stands for; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def template_calls(value: Any) -> list[dict[str, Any]]:
    """The calls of a turn: OpenAI's `tool_calls`, bare functions, one of them, or JSON text of it.

    Raises `ShapeError` for what names no function, and for arguments that are no object.
    """
    calls = []
    for index, item in enumerate(_listed(value, "tool_calls")):
        field = f"tool_calls[{index}]"
        function = item.get("function", item)
        function = _object(function, f"{field}.function")
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise ShapeError(f"{field}.function.name", f"{_shown(name)} is no function's name")
        given = function.get("arguments", function.get("parameters"))
        call_id = item.get("id")
        call = template_call(name, given, call_id if isinstance(call_id, str) else "")
        if not isinstance(call["function"]["arguments"], dict):
            raise ShapeError(
                f"{field}.function.arguments",
                f"{_shown(given)} is neither an object nor the JSON of one",
            )
        calls.append(call)
    return calls


def template_tool(name: str, description: str | None, parameters: Any) -> TemplateTool:
    """The definition of one function; one without parameters takes an empty object."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def template_tools(value: Any) -> list[TemplateTool]:
    """The tools on offer: OpenAI's `tools`, its older `functions`, bare lists as ShareGPT and
    Glaive have them, one definition alone, or JSON text of any of these.

    Raises `ShapeError` for what is no JSON, no definition, or has no name.
    """
    tools = []
    for index, item in enumerate(_listed(value, "tools")):
        field = f"tools[{index}]"
        kind = item.get("type", "function")
        if kind != "function" and "name" not in item:
            raise ShapeError(f"{field}.type", f"{_shown(kind)} isn't known; only functions are")
        function = _object(item.get("function", item), f"{field}.function")
        name, description = function.get("name"), function.get("description")
        if not isinstance(name, str) or not name:
            raise ShapeError(f"{field}.function.name", f"{_shown(name)} is no function's name")
        if not isinstance(description, str | None):
            raise ShapeError(f"{field}.function.description", f"{_shown(description)} is no text")
        parameters = function.get("parameters")
        if parameters is not None and parameters != "":
            parameters = _schema(_object(parameters, f"{field}.function.parameters"))
        tools.append(template_tool(name, description, parameters))
    return tools


_MAY_BE_NULL = frozenset({"default", "const", "enum", "examples"})
"""Keywords of JSON Schema that may hold null; elsewhere it is a field that another row has."""


def _schema(value: Any) -> Any:
    """A schema without the nulls that files bring which were tables once."""
    if isinstance(value, Mapping):
        return {
            key: item if key in _MAY_BE_NULL else _schema(item)
            for key, item in value.items()
            if item is not None or key in _MAY_BE_NULL
        }
    return [_schema(item) for item in value] if isinstance(value, list) else value


def _listed(value: Any, field: str) -> list[Mapping[str, Any]]:
    value = _parsed(value, field)
    if value is None:
        return []
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ShapeError(field, f"{_shown(value)} is no list")
    return [_object(item, f"{field}[{index}]") for index, item in enumerate(value)]


def _object(value: Any, field: str) -> Mapping[str, Any]:
    value = _parsed(value, field)
    if not isinstance(value, Mapping):
        raise ShapeError(field, f"{_shown(value)} is no object")
    return value


def _parsed(value: Any, field: str) -> Any:
    """What JSON text stands for, also where it was written twice; "" for nothing."""
    for _ in range(2):
        if not isinstance(value, str):
            break
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ShapeError(field, f"{_shown(value)} is no JSON") from None
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
