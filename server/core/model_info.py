"""What the served base model is called and how much it takes, as every answer needs it."""

from dataclasses import dataclass


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
