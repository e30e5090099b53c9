"""The paged KV cache tensors."""

import torch

from server.model.geometry import AttentionGeometry


class KVCache:
    """Owns keys and values: of each layer [blocks, block_size, kv_heads, head_dim].

    Layers may differ in heads and head size; where they don't, `stacked` is all of them as one
    tensor. Which block belongs to whom is decided in `server.scheduling.blocks`.
    """

    def __init__(
        self,
        geometry: AttentionGeometry,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.device = torch.device(device)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self._stacked: tuple[torch.Tensor, torch.Tensor] | None = None
        same, blocks = geometry.uniform, (num_blocks, block_size)
        if same is not None:
            shape = (geometry.num_layers, *blocks, same.num_heads)
            self._stacked = zeros(*shape, same.key_dim), zeros(*shape, same.value_dim)
            self.keys, self.values = (tensor.unbind(0) for tensor in self._stacked)
        else:
            self.keys = tuple(zeros(*blocks, s.num_heads, s.key_dim) for s in geometry.layers)
            self.values = tuple(zeros(*blocks, s.num_heads, s.value_dim) for s in geometry.layers)

    @property
    def stacked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all layers [layers, blocks, block_size, kv_heads, head_dim].

        For a model whose layers are alike; a write to them is a write to the layers' own.
        """
        assert self._stacked is not None, "the layers' keys and values differ in shape"
        return self._stacked

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for part in (self.keys, self.values) for tensor in part)

    def write(
        self, layer: int, slot_mapping: torch.Tensor, keys_THD: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Store the keys and values of T tokens at their slots."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slot_mapping, keys_THD)
        self.values[layer].flatten(0, 1).index_copy_(0, slot_mapping, values)

    def read(self, layer: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather blocks [..., B] into keys and values [..., B * block_size, kv_heads, dim]."""
        dim = blocks.dim() - 1
        return (
            self.keys[layer][blocks].flatten(dim, dim + 1),
            self.values[layer][blocks].flatten(dim, dim + 1),
        )
