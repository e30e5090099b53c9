"""Shapes of a model's attention, learned from the model itself."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class AttentionOptions:
    """What a layer does to its scores, as its own modelling code asks for it.

    scores = softcap(scale * q.k) - slope of the head * distance, where a query sees the
    `sliding_window` newest tokens, itself included. `slopes_H` are ALiBi slopes (arXiv:2108.12409).
    """

    scale: float
    sliding_window: int | None = None
    softcap: float | None = None
    slopes_H: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """How one layer attends. Dimensions are per head."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    options: AttentionOptions


@dataclass(frozen=True, slots=True)
class AttentionGeometry:
    """What the KV cache must hold. Dimensions are per head."""

    num_layers: int
    num_kv_heads: int
    key_dim: int
    value_dim: int

    def bytes_per_token(self, element_size: int) -> int:
        """KV bytes of one token over all layers."""
        per_layer = self.num_kv_heads * (self.key_dim + self.value_dim)
        return self.num_layers * per_layer * element_size
