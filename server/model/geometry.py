"""Shapes of a model's attention, learned from the model itself."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class AttentionOptions:
    """What a layer does to its scores, as its own modelling code asks for it.

    scores = softcap(scale * q.k) - slope of the head * distance, where a query sees the
    `sliding_window` newest tokens, itself included. `slopes_H` are ALiBi slopes (arXiv:2108.12409).
    `sinks_H` are scores that take their part of the softmax and give no value (arXiv:2309.17453).
    """

    scale: float
    sliding_window: int | None = None
    softcap: float | None = None
    slopes_H: torch.Tensor | None = None
    sinks_H: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """How one layer attends. Dimensions are per head."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    options: AttentionOptions


@dataclass(frozen=True, slots=True)
class KeyValueShape:
    """Keys and values of one layer: heads, and dimensions per head."""

    num_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class AttentionGeometry:
    """What the KV cache must hold, layer by layer."""

    layers: tuple[KeyValueShape, ...]

    @property
    def num_layers(self) -> int:
        """Layers that keep keys and values."""
        return len(self.layers)

    @property
    def uniform(self) -> KeyValueShape | None:
        """The shape that all layers have; None where they differ, or there is none."""
        first = self.layers[0] if self.layers else None
        return first if all(layer == first for layer in self.layers) else None

    def bytes_per_token(self, element_size: int) -> int:
        """KV bytes of one token over all layers."""
        values = sum(layer.num_heads * (layer.key_dim + layer.value_dim) for layer in self.layers)
        return values * element_size
