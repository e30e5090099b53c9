"""The body of `POST /v1/responses`, and the chat request that it comes to."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from server.api.requests import unsupported
from server.api.requests.body_problems import explain
from server.api.requests.chat_and_completion import ChatBody
from server.api.requests.generation import (
    CacheSalt,
    Metadata,
    MinP,
    ModelName,
    NumLogprobs,
    Seed,
    StackedAdapters,
    Temperature,
    TemplateArguments,
    TopK,
    TopP,
)
from server.api.requests.hints import CacheRetention, ReasoningEffort, ServiceTier, Verbosity
from server.api.requests.model import RequestBody, refuse
from server.api.requests.responses_items import Items, as_messages
from server.api.requests.tools import MAX_TOOLS, FunctionDefinition, FunctionName, choice_by_type

LOGPROBS = "message.output_text.logprobs"

_AS_IN_CHAT = (
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "top_logprobs",
    "parallel_tool_calls", "stream", "chat_template_kwargs", "cache_salt",
)  # fmt: skip
"""Fields that mean the same in both APIs."""


class FunctionTool(FunctionDefinition):
    """A function, in this API's flat form. Here, other than in chat, it is strict by default."""

    type: Literal["function"]
    strict: bool = True


class ChosenFunction(RequestBody):
    """`tool_choice` for one function."""

    type: Literal["function"]
    name: FunctionName


class ChosenFunctions(RequestBody):
    """`tool_choice` for some of the functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ChosenFunction] = Field(min_length=1, max_length=MAX_TOOLS)


ChoiceField = Annotated[
    Literal["none", "auto", "required"] | ChosenFunction | ChosenFunctions,
    choice_by_type(ChosenFunction, ChosenFunctions),
]


class TextFormat(RequestBody):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = Field(default=None, max_length=64)
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _schema_goes_with_its_type(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise refuse("schema", "schema goes with type 'json_schema': give both or neither")
        return self


class TextOptions(RequestBody):
    """`text`."""

    format: TextFormat = TextFormat()
    verbosity: Verbosity | None = None


class Reasoning(RequestBody):
    """`reasoning`: how hard to think. Nothing summarises thoughts, so `summary` must be absent."""

    effort: ReasoningEffort | None = None


class ResponseStreamOptions(RequestBody):
    """`stream_options`: padding against those who measure a stream's sizes is not made."""

    include_obfuscation: bool = False


class ResponseBody(RequestBody):
    """`POST /v1/responses`. Nothing is stored, so nothing can be continued by its id.

    `user`, `safety_identifier`, `prompt_cache_key` and `metadata` change no answer.
    `max_tool_calls` counts calls of built-in tools, of which there are none; `truncation: auto`
    cuts the beginning of a prompt that is too long for the window.
    """

    not_honoured = unsupported.RESPONSE

    model: ModelName
    input: Items
    adapters: StackedAdapters | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    seed: Seed | None = None
    text: TextOptions = TextOptions()
    tools: list[FunctionTool] = Field([], max_length=MAX_TOOLS)
    tool_choice: ChoiceField = "auto"
    parallel_tool_calls: bool = True
    include: list[Literal["message.output_text.logprobs"]] = Field([])
    top_logprobs: NumLogprobs | None = None
    stream: bool = False
    chat_template_kwargs: TemplateArguments = Field({})
    metadata: Metadata = Field({})
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: CacheRetention | None = None
    service_tier: ServiceTier | None = None
    store: bool = False
    stream_options: ResponseStreamOptions | None = None
    reasoning: Reasoning = Reasoning()
    max_tool_calls: int | None = Field(None, ge=1)
    truncation: Literal["auto", "disabled"] = "disabled"
    cache_salt: CacheSalt | None = None

    @model_validator(mode="after")
    def _fields_go_together(self) -> Self:
        if self.top_logprobs is not None and LOGPROBS not in self.include:
            raise refuse("top_logprobs", f"top_logprobs goes with include: ['{LOGPROBS}']")
        return self

    def as_chat(self) -> ChatBody:
        """The same request to `/v1/chat/completions`.

        Raises `RequestError` for what only the chat's schema refuses.
        """
        body: dict[str, Any] = {
            **{name: getattr(self, name) for name in _AS_IN_CHAT},
            "messages": as_messages(self.input, self.instructions),
            "max_completion_tokens": self.max_output_tokens,
            "logprobs": LOGPROBS in self.include,
            "response_format": self._response_format(),
            "tools": [
                {"type": "function", "function": tool.model_dump(exclude={"type"})}
                for tool in self.tools
            ],
            "tool_choice": self._tool_choice(),
            "reasoning_effort": self.reasoning.effort,
            "truncate_prompt_tokens": -1 if self.truncation == "auto" else None,
        }
        if self.adapters is not None:
            body["adapters"] = [adapter.model_dump() for adapter in self.adapters]
        try:
            return ChatBody.model_validate(body)
        except ValidationError as error:
            raise explain(error, ChatBody) from error

    def _response_format(self) -> dict[str, Any] | None:
        given = self.text.format
        if given.type != "json_schema":
            return {"type": given.type}
        return {
            "type": "json_schema",
            "json_schema": {"name": given.name or "answer", "schema": given.json_schema},
        }

    def _tool_choice(self) -> Any:
        choice = self.tool_choice
        if isinstance(choice, str):
            return choice
        if isinstance(choice, ChosenFunction):
            return _named(choice)
        tools = [_named(tool) for tool in choice.tools]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}


def _named(choice: ChosenFunction) -> dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}}
