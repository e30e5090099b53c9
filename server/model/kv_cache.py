"""The paged KV cache tensors."""

import torch

from server.model.geometry import AttentionGeometry


class KVCache:
    """Owns keys and values, each [layers, blocks, block_size, kv_heads, head_dim].

    Which block belongs to whom is decided in `server.scheduling.blocks`.
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
        self.block_size = block_size
        shape = (geometry.num_layers, num_blocks, block_size, geometry.num_kv_heads)
        self.keys = torch.zeros(*shape, geometry.key_dim, dtype=dtype, device=device)
        self.values = torch.zeros(*shape, geometry.value_dim, dtype=dtype, device=device)

    @property
    def size_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

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
