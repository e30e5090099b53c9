"""The fields that chat and completions share."""

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import TypeAliasType

from adapters.stack import MAX_TERMS
from server.api.requests.hints import CacheRetention, ServiceTier
from server.api.requests.model import RequestBody, refuse
from server.api.requests.structured_output import (
    MAX_CHOICES,
    ResponseFormat,
    StructuredOutputs,
    chosen_shape,
)
from server.core.grammar import GrammarSpec
from server.core.logprobs import ScoresAsked

MAX_STOPS = 4
MAX_STOP_CHARS = 1000
MAX_BAD_WORDS = 128
MAX_LOGPROBS = 20
"""Alternatives that can be told for one token, as in the OpenAI API."""


def listed(is_single: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """One value becomes a list of one."""
    return lambda value: [value] if is_single(value) else value


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopText = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    list[Stop],
    BeforeValidator(
        listed(lambda value: isinstance(value, str)),
        json_schema_input_type=Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)],
    ),
    Field(max_length=MAX_STOPS),
]


def without_empty(value: Any) -> Any:
    """An empty stop text stops nothing: clients send one for none."""
    if value == "":
        return []
    if not isinstance(value, list) or len(value) > MAX_STOPS:
        return value
    return [stop for stop in value if stop != ""]


StopField = Annotated[
    Stops,
    BeforeValidator(
        without_empty,
        json_schema_input_type=StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)],
    ),
]
TokenId = TypeAliasType("TokenId", Annotated[int, Field(ge=0)])
"""Has a name in the OpenAPI document, where each server says how many it knows."""

Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]


class StackedAdapter(RequestBody):
    """One member of the `adapters` field."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$", max_length=128)
    scale: float = Field(1.0, allow_inf_nan=False)


StackedAdapters = Annotated[list[StackedAdapter], Field(max_length=MAX_TERMS)]
ModelName = Annotated[str, Field(min_length=1, max_length=4096)]
Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
TopP = Annotated[float, Field(ge=0.0, le=1.0)]
TopK = Annotated[int, Field(ge=-1, lt=2**31)]
MinP = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
CacheSalt = Annotated[str, Field(min_length=1)]
Metadata = Annotated[dict[str, str], Field(max_length=16)]
TemplateArguments = Annotated[dict[str, Any], Field(max_length=64)]


class StreamOptions(RequestBody):
    """How a stream reports."""

    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False


class GenerationBody(RequestBody):
    """What both generating endpoints take.

    `user`, `safety_identifier`, `prompt_cache_key` and `metadata` say who asks, what to cache and
    what to file the answer under; they change no answer, here or in the OpenAI API, except that
    one user stays with one side of a canary. `cache_salt` is vLLM's: cached prompts are reused
    only between requests that have the same one. `lora_path` is SGLang's word for an adapter, taken
    where it says what `model` says; `guided_decoding_backend` chose a library in vLLM, and changes
    nothing of what is enforced. The other hints are in `server.api.requests.hints`.
    """

    model: ModelName
    lora_path: str | None = None
    adapters: StackedAdapters | None = None
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(1.0, gt=0.0, le=10.0)
    logit_bias: dict[TokenKey, Bias] = Field({})
    allowed_token_ids: list[TokenId] | None = Field(None, min_length=1)
    bad_words: list[Stop] = Field([], max_length=MAX_BAD_WORDS)
    stop: StopField = Field([])
    stop_token_ids: list[TokenId] = Field([], max_length=MAX_BAD_WORDS)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = Field(0, ge=0)
    seed: Seed | None = None
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    prompt_logprobs: NumLogprobs | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, min_length=1, max_length=MAX_CHOICES)
    guided_grammar: str | None = None
    guided_decoding_backend: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: CacheRetention | None = None
    service_tier: ServiceTier | None = None
    store: bool = False
    cache_salt: CacheSalt | None = None
    metadata: Metadata = Field({})

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refuse(
                "stream_options", "stream_options goes with stream: true; set it, or leave both out"
            )
        if self.stream and self.prompt_logprobs is not None:
            raise refuse(
                "prompt_logprobs", "prompt_logprobs comes with whole answers only: leave stream out"
            )
        if self.truncate_prompt_tokens == 0:
            raise refuse(
                "truncate_prompt_tokens",
                "truncate_prompt_tokens is 0; it should be at least 1, or -1 for what fits",
            )
        return self

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.lora_path is not None and self.lora_path != self.model:
            raise refuse(
                "lora_path",
                f"lora_path is {self.lora_path!r} and model is {self.model!r}: name the adapter as "
                "model, and leave lora_path out",
            )
        return self

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def counts_along(self) -> bool:
        """Whether every chunk of the stream is to carry the usage so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def shows_prompt_scores(self) -> bool:
        """Whether the answer has vLLM's log probabilities of the prompt."""
        return self.prompt_logprobs is not None

    def scores_asked(self, drawn: int | None, *, echoed: int | None = None) -> ScoresAsked:
        """`drawn` alternatives for each generated token, and what the prompt's need.

        `echoed` is what an echo of the prompt shows of its tokens.
        """
        given = [count for count in (self.prompt_logprobs, echoed) if count is not None]
        return ScoresAsked(drawn, max(given, default=None))

    @property
    def shape(self) -> GrammarSpec | None:
        """What the answer must look like. Raises `RequestError` when two fields say so."""
        return chosen_shape(
            response_format=self.response_format,
            structured_outputs=self.structured_outputs,
            guided_json=self.guided_json,
            guided_regex=self.guided_regex,
            guided_choice=self.guided_choice,
            guided_grammar=self.guided_grammar,
        )
