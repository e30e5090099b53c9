"""A base model's sizes, from its config alone: no weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import ConfigError
from trainer.methods.targets import BaseGeometry, Shape

_LLAMA: Mapping[str, tuple[int, int, int, int]] = {
    # hidden, intermediate, layers, heads (arXiv:2302.13971, table 2)
    "llama-7b": (4096, 11008, 32, 32),
    "llama-13b": (5120, 13824, 40, 40),
    "llama-65b": (8192, 22016, 80, 64),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """`linears` are what is quantised and adapted; `other_parameters` everything else, once each.

    `intermediate` is the MLP's inner width, `attention_width` all query heads of a layer, `rows`
    the vocabulary that logits are over.
    """

    name: str
    linears: Mapping[str, Shape]
    other_parameters: int
    geometry: BaseGeometry
    intermediate: int
    attention_width: int
    num_heads: int
    rows: int

    @property
    def linear_parameters(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def num_parameters(self) -> int:
        return self.linear_parameters + self.other_parameters


def shape_of(name: str, model_config: Any) -> ModelShape:
    """The shape of the model that a transformers config describes."""
    from adapters.base.architecture import drop_senses, empty_model
    from adapters.base.modules import linear_modules

    model = empty_model(model_config)
    drop_senses(model)
    linears = linear_modules(model)
    total = sum(int(parameter.numel()) for parameter in model.parameters())
    text = model_config.get_text_config()
    heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None)
    return ModelShape(
        name=name,
        linears=linears,
        other_parameters=total - sum(inputs * outputs for inputs, outputs in linears.values()),
        geometry=BaseGeometry.of(model_config),
        intermediate=int(inner or 4 * text.hidden_size),
        attention_width=heads * head_dim,
        num_heads=heads,
        rows=int(text.vocab_size),
    )


def named_shape(name: str) -> ModelShape:
    """A well-known model's shape. Raises `ConfigError` for a name that isn't one."""
    if name not in _LLAMA:
        raise ConfigError([f"{name} is no known shape; use one of {', '.join(_LLAMA)}"])
    from transformers import LlamaConfig

    hidden, intermediate, layers, heads = _LLAMA[name]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=32000,
        tie_word_embeddings=False,
    )
    return shape_of(name, config)
