"""Request bodies, field by field. What passes here is honoured; what isn't is refused by name."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adapters.stack import MAX_TERMS
from server.api import unsupported
from server.core.request import SamplingParams

MAX_STOPS = 4
MAX_STOP_CHARS = 1000
COMPLETION_MAX_TOKENS = 16
"""What `/v1/completions` generates when `max_tokens` isn't given, as the OpenAI API does."""


def _refuse(field: str, message: str) -> PydanticCustomError:
    """An error that `server.api.body` reports under the name of `field`."""
    return PydanticCustomError("refused", "{text}", {"field": field, "text": message})


class RequestBody(BaseModel):
    """A JSON object whose fields are all known. A null means the same as leaving the field out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    not_honoured: ClassVar[unsupported.Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_out_neutral(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept: dict[str, Any] = {}
        for name, value in data.items():
            neutral = cls.not_honoured.get(name)
            if neutral is None:
                if value is not None or name not in cls.model_fields:
                    kept[name] = value
            elif value is not None and value not in neutral:
                raise _refuse(name, f"Unsupported field: {name}. {_way_out(neutral)}")
        return kept


def _way_out(neutral: tuple[object, ...]) -> str:
    values = [repr(value) for value in neutral]
    return "This server doesn't honour it: leave it out" + "".join(
        f" or set it to {value}" for value in values[:1]
    )


def _joined_parts(content: Any) -> Any:
    """Text of a list of text parts, one part per line; anything else as it is."""
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for index, part in enumerate(content):
        is_part = isinstance(part, dict) and part.get("type") == "text"
        if not is_part or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            text = (
                f"part {index} is of type {kind!r}; this server takes text only, as "
                '{"type": "text", "text": "..."}'
            )
            raise PydanticCustomError("content_part", "{text}", {"text": text})
        texts.append(part["text"])
    return "\n".join(texts)


def _listed(is_single: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """One value becomes a list of one."""
    return lambda value: [value] if is_single(value) else value


def _is_one_prompt(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return True
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)


Text = Annotated[str, BeforeValidator(_joined_parts)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    list[Stop],
    BeforeValidator(_listed(lambda value: isinstance(value, str))),
    Field(max_length=MAX_STOPS),
]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Message(RequestBody):
    """One turn. `developer` is the newer word for `system`."""

    not_honoured = unsupported.MESSAGE

    role: Literal["system", "developer", "user", "assistant"]
    content: Text

    def as_template_message(self) -> dict[str, str]:
        """Role and content as chat templates know them."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class StackedAdapter(RequestBody):
    """One member of the `adapters` field."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$", max_length=128)
    scale: float = Field(1.0, allow_inf_nan=False)


class StreamOptions(RequestBody):
    """How a stream reports."""

    not_honoured = unsupported.STREAM_OPTIONS

    include_usage: bool = False


class GenerationBody(RequestBody):
    """What both generating endpoints take.

    `user`, `safety_identifier` and `prompt_cache_key` say who asks and what to cache; they change
    no answer, here or in the OpenAI API.
    """

    model: str = Field(min_length=1, max_length=4096)
    adapters: list[StackedAdapter] | None = Field(None, max_length=MAX_TERMS)
    temperature: float = Field(1.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=-1, lt=2**31)
    stop: Stops = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise _refuse(
                "stream_options", "stream_options goes with stream: true; set it, or leave both out"
            )
        return self

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int) -> SamplingParams:
        """How the tokens of this request are drawn."""
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            stop=tuple(self.stop),
            seed=self.seed,
            ignore_eos=self.ignore_eos,
        )


class ChatBody(GenerationBody):
    """`POST /v1/chat/completions`."""

    not_honoured = unsupported.CHAT

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise _refuse(
                "max_tokens",
                f"max_tokens is {old} and max_completion_tokens is {new}: they mean the same, "
                "so give one of them",
            )
        return self

    @property
    def token_limit(self) -> int | None:
        """The answer's limit in tokens; None for whatever the window has room for."""
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(GenerationBody):
    """`POST /v1/completions`: one prompt or several, as text or as token ids."""

    not_honoured = unsupported.COMPLETION

    prompt: Annotated[list[Any], BeforeValidator(_listed(_is_one_prompt)), Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _prompts_are_text_or_tokens(self) -> Self:
        for index, prompt in enumerate(self.prompt):
            is_tokens = isinstance(prompt, list) and all(
                isinstance(token, int) and not isinstance(token, bool) for token in prompt
            )
            if not isinstance(prompt, str) and not is_tokens:
                raise _refuse(
                    "prompt",
                    f"prompt[{index}] is neither text nor a list of token ids; prompt takes a "
                    "string, a list of strings, a list of token ids or a list of such lists",
                )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        return self.prompt


class LoadAdapterBody(RequestBody):
    """`POST /v1/load_lora_adapter`, vLLM's. Empty means missing: the route has vLLM's answer."""

    not_honoured = unsupported.LOAD_ADAPTER

    lora_name: str = ""
    lora_path: str = ""
    load_inplace: bool = False


class UnloadAdapterBody(RequestBody):
    """`POST /v1/unload_lora_adapter`, vLLM's."""

    not_honoured = unsupported.UNLOAD_ADAPTER

    lora_name: str = ""
