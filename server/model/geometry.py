"""Shapes of a model's attention, learned from the model itself."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """How one layer attends: as its own modelling code calls the attention function."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    scale: float
    sliding_window: int | None
    softcap: float | None


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
