"""Request bodies of each endpoint. What passes here is honoured; what isn't is refused by name."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from server.api.requests import unsupported
from server.api.requests.generation import (
    GenerationBody,
    NumLogprobs,
    TemplateArguments,
    TokenId,
    listed,
)
from server.api.requests.hints import ReasoningEffort, Verbosity
from server.api.requests.messages import MAX_MESSAGES, Message
from server.api.requests.model import RequestBody, Rule, refuse
from server.api.requests.tools import (
    MAX_TOOLS,
    FunctionDefinition,
    NamedFunction,
    NamedTool,
    Tool,
    ToolChoiceField,
    ToolUse,
    tool_use,
)

COMPLETION_MAX_TOKENS = 16
"""What `/v1/completions` generates when `max_tokens` isn't given, as the OpenAI API does."""


def _is_one_prompt(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return True
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)


class ConversationBody(RequestBody):
    """Messages, and how the chat template is to render them."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: list[Tool] = Field([], max_length=MAX_TOOLS)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: TemplateArguments = Field({})

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is told."""
        return self.chat_template_kwargs

    @model_validator(mode="after")
    def _one_way_to_go_on(self) -> Self:
        opens_another = "add_generation_prompt" in self.model_fields_set
        if self.continue_final_message and opens_another and self.add_generation_prompt:
            raise refuse(
                "continue_final_message",
                "continue_final_message goes on with the last message, and add_generation_prompt "
                "opens a new one: give one of them",
            )
        taken = {"messages", "tools", "tokenize", "chat_template", "conversation"}
        if taken & set(self.chat_template_kwargs):
            name = sorted(taken & set(self.chat_template_kwargs))[0]
            raise refuse("chat_template_kwargs", f"chat_template_kwargs can't set {name}")
        return self


class ChatBody(GenerationBody, ConversationBody):
    """`POST /v1/chat/completions`. `functions` and `function_call` are the older form of tools."""

    not_honoured = unsupported.CHAT

    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: NumLogprobs | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool = True
    functions: list[FunctionDefinition] = Field([], max_length=MAX_TOOLS)
    function_call: str | NamedFunction | None = None
    reasoning_effort: ReasoningEffort | None = None
    verbosity: Verbosity | None = None

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise refuse(
                "max_tokens",
                f"max_tokens is {old} and max_completion_tokens is {new}: they mean the same, "
                "so give one of them",
            )
        return self

    @model_validator(mode="after")
    def _fields_go_together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise refuse("top_logprobs", "top_logprobs goes with logprobs: true; set it")
        older = bool(self.functions) or self.function_call is not None
        if older and (self.tools or self.tool_choice is not None):
            raise refuse("functions", "functions and function_call are the older form of tools: "
                         "give one form")  # fmt: skip
        call = self.function_call
        if isinstance(call, str) and call not in ("none", "auto"):
            raise refuse(
                "function_call", f"function_call is {call!r}; it should be 'none', 'auto' or a name"
            )
        return self

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is told: the efforts too, where no argument says otherwise."""
        hints: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            hints["reasoning_effort"] = self.reasoning_effort
        if self.reasoning_effort == "none":
            hints["enable_thinking"] = False
        return {**hints, **self.chat_template_kwargs}

    @property
    def token_limit(self) -> int | None:
        """The answer's limit in tokens; None for whatever the window has room for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def uses_functions(self) -> bool:
        """Whether the answer must have the older form."""
        return bool(self.functions)

    def tool_use(self) -> ToolUse | None:
        """How tools may be used; None when none may."""
        if not self.uses_functions:
            return tool_use(
                [tool.function for tool in self.tools],
                self.tool_choice,
                is_parallel=self.parallel_tool_calls,
            )
        call = self.function_call
        choice = (
            NamedTool(type="function", function=call) if isinstance(call, NamedFunction) else call
        )
        return tool_use(self.functions, choice, is_parallel=False, param="function_call")


Tokens = Annotated[list[TokenId], Field(min_length=1)]
PromptInput = str | Tokens | Annotated[list[str | Tokens], Field(min_length=1)]


class CompletionBody(GenerationBody):
    """`POST /v1/completions`: one prompt or several, as text or as token ids."""

    not_honoured = unsupported.COMPLETION

    prompt: Annotated[
        list[Any],
        BeforeValidator(listed(_is_one_prompt), json_schema_input_type=PromptInput),
        Field(min_length=1),
    ]
    max_tokens: int | None = Field(None, ge=0)
    best_of: int | None = Field(None, ge=1)
    echo: bool = False
    logprobs: NumLogprobs | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _prompts_are_text_or_tokens(self) -> Self:
        for index, prompt in enumerate(self.prompt):
            is_tokens = isinstance(prompt, list) and all(
                isinstance(token, int) and not isinstance(token, bool) for token in prompt
            )
            if not isinstance(prompt, str) and not is_tokens:
                raise refuse(
                    "prompt",
                    f"prompt[{index}] is neither text nor a list of token ids; prompt takes a "
                    "string, a list of strings, a list of token ids or a list of such lists",
                )
        return self

    @model_validator(mode="after")
    def _fields_go_together(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise refuse("max_tokens", "max_tokens is 0; without echo it should be at least 1")
        if self.best_of is None:
            return self
        if self.best_of < self.n:
            raise refuse(
                "best_of", f"best_of is {self.best_of}; it should be at least n ({self.n})"
            )
        if self.stream and self.best_of > self.n:
            raise refuse(
                "best_of",
                f"best_of is {self.best_of} of which n is {self.n}: the best are known at the end, "
                "so leave stream out",
            )
        return self

    @property
    def num_tries(self) -> int:
        """Answers to generate for each prompt; the best `n` go out."""
        return self.best_of or self.n

    @property
    def prompts(self) -> list[str | list[int]]:
        return self.prompt


def named(field: str) -> Rule:
    """A field that must have a text in it."""
    return {"properties": {field: {"type": "string", "minLength": 1}}}


class LoadAdapterBody(RequestBody):
    """`POST /v1/load_lora_adapter`, vLLM's. Empty means missing: the route has vLLM's answer."""

    not_honoured = unsupported.LOAD_ADAPTER
    rules = ({"required": ["lora_name", "lora_path"]}, named("lora_name"), named("lora_path"))

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False


class UnloadAdapterBody(RequestBody):
    """`POST /v1/unload_lora_adapter`, vLLM's."""

    not_honoured = unsupported.UNLOAD_ADAPTER
    rules = ({"required": ["lora_name"]}, named("lora_name"))

    lora_name: str = ""
