"""What a request adds to, or takes from, the model's logits before a token is drawn."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogitRules:
    """Penalties, biases and bans of one request; see `server/model/logit_shaping.py` for the order.

    `presence_penalty` and `frequency_penalty` count generated tokens (the OpenAI API's definition),
    `repetition_penalty` the prompt's too (CTRL's, as transformers and vLLM have it). `logit_bias`
    holds (token id, addend). `allowed_token_ids` None allows all. Each of `banned_sequences` may
    not be completed by generated tokens. `withheld_token_ids` can't be drawn before the sequence
    has its `min_tokens`.
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


NO_RULES = LogitRules()
