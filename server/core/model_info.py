"""What the served base model is called and how much it takes, as every answer needs it."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.core.errors import RequestError


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The base model as clients see it.

    `root` is the reference it was loaded from, `created` the unix time in seconds at which this
    server loaded it. `max_model_len` counts prompt and answer together, in tokens. Token ids that a
    client sends must be less than `vocab_size`. `aliases` are further names for the base alone.
    """

    base_id: str
    root: str
    max_model_len: int
    vocab_size: int
    created: int
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.max_model_len >= 2, self.max_model_len
        assert self.vocab_size >= 1, self.vocab_size

    def is_base(self, name: str) -> bool:
        """Whether `name` means the base model without an adapter."""
        return name == self.base_id or name in self.aliases

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        """Raises `RequestError`, which names `param`, for an id that the model doesn't have."""
        # min() and max() take a fifth of the time of a loop that stops at the first.
        least, most = min(token_ids, default=0), max(token_ids, default=0)
        unknown = least if least < 0 else most
        if not 0 <= unknown < self.vocab_size:
            raise RequestError(
                f"{param} holds the token id {unknown}; this model's are 0 to "
                f"{self.vocab_size - 1}",
                param,
            )
