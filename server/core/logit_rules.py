"""What a request adds to, or takes from, the model's logits before a token is drawn."""

from array import array
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class LogitRules:
    """Penalties, biases and bans of one request;
    `server/model/sampling/logit_shaping.py` has the order.

    `presence_penalty` and `frequency_penalty` count generated tokens (the OpenAI API's definition),
    `repetition_penalty` the prompt's too (CTRL's, as transformers and vLLM have it). `logit_bias`
    holds (token id, addend). `allowed_token_ids` None allows all. Each of `banned_sequences` may
    not be completed by generated tokens. `withheld_token_ids` can't be drawn before the sequence
    has its `min_tokens`.

    The arrays below are built once, for all choices and steps of a request: a bias over a whole
    vocabulary took 20 ms a token when each step went through it.
    """

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    banned_sequences: tuple[tuple[int, ...], ...] = ()
    withheld_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert self.repetition_penalty > 0.0, self.repetition_penalty
        assert all(self.banned_sequences), "an empty sequence would ban nothing or everything"

    @property
    def counts_tokens(self) -> bool:
        """Whether what was generated so far matters."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @cached_property
    def bias_ids(self) -> "array[int]":
        """The tokens of `logit_bias`, as int64."""
        return array("q", [token_id for token_id, _ in self.logit_bias])

    @cached_property
    def biases(self) -> "array[float]":
        """The addends of `logit_bias`, as float32."""
        return array("f", [bias for _, bias in self.logit_bias])

    @cached_property
    def repeats_bias_ids(self) -> bool:
        """Whether a token has several addends: "7" and "07" are two keys of one token."""
        return len(set(self.bias_ids)) < len(self.bias_ids)

    @cached_property
    def allowed_ids(self) -> "array[int]":
        """`allowed_token_ids` as int64; empty without any."""
        return array("q", self.allowed_token_ids or ())

    @cached_property
    def withheld_ids(self) -> "array[int]":
        """`withheld_token_ids` as int64."""
        return array("q", self.withheld_token_ids)


NO_RULES = LogitRules()
