"""The turns of a conversation, as clients send them and as chat templates take them."""

from typing import Annotated, Any, Final, Literal, NotRequired, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from adapters.base.chat_messages import (
    TemplateMessage,
    joined_texts,
    template_call,
    template_message,
)
from server.api.requests import unsupported
from server.api.requests.model import NULL, RequestBody, Rule, refuse

MAX_MESSAGES = 2048
"""Turns of a conversation: each takes several tokens of the window, even an empty one."""

MAX_PARTS = 1024
MAX_CALLS = 128

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


_FIELDS_OF_TEXT = frozenset({"type", "text", "annotations", "logprobs", "prompt_cache_breakpoint",
                              "cache_control"})  # fmt: skip
_FIELDS_OF_REFUSAL = frozenset({"type", "refusal", "cache_control"})


def joined_parts(content: Any) -> Any:
    """Text of a list of text parts, one part per line; anything else as it is."""
    if not isinstance(content, list):
        return content
    if len(content) > MAX_PARTS:
        message = f"a content has {len(content)} parts; this server takes up to {MAX_PARTS}"
        raise PydanticCustomError("content_part", "{text}", {"text": message})
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
        known = _FIELDS_OF_REFUSAL if kind == "refusal" else _FIELDS_OF_TEXT
        if unknown := set(part) - known:
            message = f"part {index} has a field that isn't known here: {min(unknown)[:80]}"
            raise PydanticCustomError("content_part", "{text}", {"text": message})
        texts.append(text)
    return joined_texts(texts)


class TextPart(TypedDict):
    """A part of a content, in the words of both APIs.

    What an answer's part has beside its text may come back with it; a cache needs no advice.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: NotRequired[Any]
    logprobs: NotRequired[Any]
    prompt_cache_breakpoint: NotRequired[Any]
    cache_control: NotRequired[Any]


class RefusalPart(TypedDict):
    """What an assistant said instead of an answer."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    type: Literal["refusal"]
    refusal: str
    cache_control: NotRequired[Any]


Text = Annotated[
    str,
    BeforeValidator(
        joined_parts,
        json_schema_input_type=str
        | Annotated[list[TextPart | RefusalPart], Field(max_length=MAX_PARTS)],
    ),
]


class CalledFunction(RequestBody):
    """What an assistant called, with its arguments as JSON text."""

    name: str = Field(min_length=1, max_length=256)
    arguments: str = ""


class ToolCall(RequestBody):
    """One entry of `tool_calls` in an assistant's message."""

    id: str = Field("", max_length=256)
    type: Literal["function"] = "function"
    index: int = 0
    function: CalledFunction


_NOT_NULL: Final[Rule] = {"type": ["string", "array", "object"]}
_CALLS_NOTHING: Final[Rule] = {
    "tool_calls": {"maxItems": 0},
    "function_call": NULL,
    "refusal": NULL,
    "reasoning": NULL,
    "reasoning_content": NULL,
    "content": _NOT_NULL,
}
_BY_ROLE: Final[Rule] = {
    "anyOf": [
        {
            "properties": {
                **_CALLS_NOTHING,
                "role": {"enum": ["system", "developer", "user", "function"]},
                "tool_call_id": NULL,
            },
            "required": ["content"],
        },
        {"properties": {**_CALLS_NOTHING, "role": {"const": "tool"}}, "required": ["content"]},
        *(
            {
                "properties": {
                    "role": {"const": "assistant"},
                    "tool_call_id": NULL,
                    field: {**_NOT_NULL, "minItems": 1} if field == "tool_calls" else _NOT_NULL,
                },
                "required": [field],
            }
            for field in ("content", "refusal", "tool_calls", "function_call")
        ),
    ]
}


class Message(RequestBody):
    """One turn. `developer` is the newer word for `system`, `function` the older for `tool`."""

    not_honoured = unsupported.MESSAGE
    rules = (_BY_ROLE,)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] = Field([], max_length=MAX_CALLS)
    tool_call_id: str | None = Field(None, max_length=256)
    function_call: CalledFunction | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    cache_control: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fields_belong_to_the_role(self) -> Self:
        calls = bool(self.tool_calls) or self.function_call is not None
        if calls and self.role != "assistant":
            raise refuse("tool_calls", f"only an assistant calls tools, and role is {self.role!r}")
        if self.tool_call_id is not None and self.role != "tool":
            raise refuse("tool_call_id", f"tool_call_id goes with role 'tool', not {self.role!r}")
        if self.refusal is not None and self.role != "assistant":
            raise refuse("refusal", f"refusal goes with role 'assistant', not {self.role!r}")
        for name, thought in (("reasoning_content", self.reasoning_content),
                              ("reasoning", self.reasoning)):  # fmt: skip
            if thought is not None and self.role != "assistant":
                raise refuse(name, f"{name} goes with role 'assistant', not {self.role!r}")
        if None not in (self.reasoning, self.reasoning_content) and (
            self.reasoning != self.reasoning_content
        ):
            raise refuse("reasoning", "reasoning and reasoning_content differ: give one of them")
        if self.content is None and self.refusal is None and not calls:
            raise refuse("content", "Missing field: content is required")
        return self

    def as_template_message(self) -> TemplateMessage:
        """This turn in the words of chat templates."""
        calls = [(call.id, call.function) for call in self.tool_calls]
        if self.function_call is not None:
            calls.append(("", self.function_call))
        content = self.content if self.content is not None else self.refusal
        return template_message(
            self.role,
            content or "",
            name=self.name,
            tool_call_id=self.tool_call_id,
            reasoning=self.reasoning_content or self.reasoning or "",
            tool_calls=[
                template_call(function.name, function.arguments, call_id)
                for call_id, function in calls
            ],
        )
