"""Which modules of a base a method changes, and how many parameters it trains there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import MethodError

if TYPE_CHECKING:
    from trainer.config import TrainerConfig

Shape = tuple[int, int]
"""(in_features, out_features) of a linear layer."""


@dataclass(frozen=True, slots=True)
class BaseGeometry:
    """The sizes that prompt methods depend on: `key_width` is all key heads of one layer."""

    hidden: int
    num_layers: int
    key_width: int

    @classmethod
    def of(cls, model_config: Any) -> "BaseGeometry":
        """From a transformers config, whatever the architecture calls them."""
        text = model_config.get_text_config()
        heads = int(text.num_attention_heads)
        key_heads = int(getattr(text, "num_key_value_heads", None) or heads)
        head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        return cls(int(text.hidden_size), int(text.num_hidden_layers), key_heads * head_dim)


def match_modules(config: "TrainerConfig", modules: Mapping[str, Shape]) -> dict[str, Shape]:
    """The linear modules that the method changes; none for prompt methods, all for full.

    Raises `MethodError` naming every target that matches nothing, and what there is.
    """
    return config.training_method.match_modules(config, modules)


def count_parameters(
    config: "TrainerConfig", modules: Mapping[str, Shape], geometry: BaseGeometry
) -> int:
    """Trainable parameters of a method on these matched modules."""
    return config.training_method.count_parameters(config, modules, geometry)


def names_or_word(value: object) -> object:
    """`a,b` as `[a, b]`; the words `all-linear` and `auto`, and anything else, as they are."""
    if isinstance(value, str) and value not in ("all-linear", "auto"):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def matches_any(name: str, targets: Sequence[str]) -> bool:
    """PEFT's rule for a list of targets: the whole name, or its last parts."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def require_matches(
    key: str, targets: Sequence[str], modules: Mapping[str, Shape], base: str
) -> None:
    """Raise `MethodError` naming those of `targets`, given as `key`, that match no linear."""
    unmatched = [t for t in targets if not any(matches_any(name, (t,)) for name in modules)]
    if unmatched:
        raise MethodError(
            f"{key}: {', '.join(unmatched)} match no linear layer of {base}; it has "
            f"{', '.join(last_parts(modules))}"
        )


def last_parts(modules: Mapping[str, Shape]) -> list[str]:
    """The names that a list of targets may have in it."""
    return sorted({name.rsplit(".", 1)[-1] for name in modules})
