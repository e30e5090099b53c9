"""The turns of a conversation, as clients send them and as chat templates take them."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from server.api import unsupported
from server.api.request_body import RequestBody, refuse

TemplateMessage = dict[str, Any]

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


def joined_parts(content: Any) -> Any:
    """Text of a list of text parts, one part per line; anything else as it is."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("refusal" if kind == "refusal" else "text") if kind in _TEXT_PARTS else None
        if not isinstance(text, str):
            message = (
                f"part {index} is of type {kind!r}; this server takes text only, as "
                '{"type": "text", "text": "..."}'
            )
            raise PydanticCustomError("content_part", "{text}", {"text": message})
        texts.append(text)
    return "\n".join(texts)


Text = Annotated[str, BeforeValidator(joined_parts)]


class CalledFunction(RequestBody):
    """What an assistant called, with its arguments as JSON text."""

    name: str = Field(min_length=1, max_length=256)
    arguments: str = ""

    def as_template_call(self) -> dict[str, Any]:
        """Templates write the arguments themselves, so they get them as an object."""
        return {"name": self.name, "arguments": parsed_arguments(self.arguments)}


class ToolCall(RequestBody):
    """One entry of `tool_calls` in an assistant's message."""

    id: str = Field("", max_length=256)
    type: Literal["function"] = "function"
    index: int = 0
    function: CalledFunction


class Message(RequestBody):
    """One turn. `developer` is the newer word for `system`, `function` the older for `tool`."""

    not_honoured = unsupported.MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] = Field([])
    tool_call_id: str | None = Field(None, max_length=256)
    function_call: CalledFunction | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _fields_belong_to_the_role(self) -> Self:
        calls = bool(self.tool_calls) or self.function_call is not None
        if calls and self.role != "assistant":
            raise refuse("tool_calls", f"only an assistant calls tools, and role is {self.role!r}")
        if self.tool_call_id is not None and self.role != "tool":
            raise refuse("tool_call_id", f"tool_call_id goes with role 'tool', not {self.role!r}")
        if self.content is None and self.refusal is None and not calls:
            raise refuse("content", "Missing field: content is required")
        return self

    def as_template_message(self) -> TemplateMessage:
        """This turn in the words of chat templates."""
        roles = {"developer": "system", "function": "tool"}
        content = self.content if self.content is not None else self.refusal
        message: TemplateMessage = {
            "role": roles.get(self.role, self.role),
            "content": content or "",
        }
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        calls = [(call.id, call.function) for call in self.tool_calls]
        if self.function_call is not None:
            calls.append(("", self.function_call))
        if calls:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": function.as_template_call()}
                for call_id, function in calls
            ]
        return message


def parsed_arguments(text: str) -> Any:
    """The arguments' object; text that isn't JSON stays text, since a model may have written it."""
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return text
