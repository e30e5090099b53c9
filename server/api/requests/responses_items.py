"""The items of a `/v1/responses` input, as turns of a conversation."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.api.requests import unsupported
from server.api.requests.messages import MAX_MESSAGES, Text
from server.api.requests.model import RequestBody

Status = Literal["in_progress", "completed", "incomplete"]


class MessageItem(RequestBody):
    """A turn: what somebody said."""

    not_honoured = unsupported.RESPONSE_ITEM

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    id: str | None = None
    status: Status | None = None

    def as_message(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content}


class FunctionCallItem(RequestBody):
    """A call that the model made earlier."""

    not_honoured = unsupported.RESPONSE_ITEM

    type: Literal["function_call"]
    call_id: str = Field(max_length=256)
    name: str = Field(min_length=1, max_length=256)
    arguments: str = ""
    id: str | None = None
    status: Status | None = None

    def as_call(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.call_id, "type": "function", "function": function}


class FunctionOutputItem(RequestBody):
    """What a call came to."""

    not_honoured = unsupported.RESPONSE_ITEM

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=256)
    output: Text
    id: str | None = None
    status: Status | None = None

    def as_message(self) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": self.call_id, "content": self.output}


Item = MessageItem | FunctionCallItem | FunctionOutputItem

_ITEMS: dict[str, type[Item]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionOutputItem,
}


def _item_by_type(value: Any) -> Any:
    # A union's errors would name every branch; this picks the one that was meant.
    if not isinstance(value, dict):
        return value
    kind = value.get("type") or "message"
    schema = _ITEMS.get(kind) if isinstance(kind, str) else None
    if schema is None:
        text = f"an item of type {kind!r} isn't known here; there are {', '.join(_ITEMS)}"
        raise PydanticCustomError("item_type", "{text}", {"text": text})
    return schema.model_validate(value)


def _items(value: Any) -> Any:
    if isinstance(value, str):
        return [MessageItem(role="user", content=value)]
    return value


Items = Annotated[
    list[Annotated[Item, BeforeValidator(_item_by_type)]],
    BeforeValidator(_items, json_schema_input_type=str | list[Item]),
    Field(min_length=1, max_length=MAX_MESSAGES),
]


def as_messages(items: Sequence[Item], instructions: str | None) -> list[dict[str, Any]]:
    """The conversation: instructions first, and calls gathered into the assistant's turn."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    for item in items:
        if not isinstance(item, FunctionCallItem):
            messages.append(item.as_message())
            continue
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        messages[-1].setdefault("tool_calls", []).append(item.as_call())
    return messages
