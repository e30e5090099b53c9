"""BLOOM's attention has no interface in transformers, so its module is replaced by one that has.

Fused query-key-value per head and ALiBi in place of positions (arXiv:2211.05100, arXiv:2108.12409).
"""

import math
from typing import Any

import torch
from torch import nn

from server.model.forward.step_context import StepContext
from server.model.geometry import AttentionOptions


class BloomPagedAttention(nn.Module):
    """Takes the place of transformers' `BloomAttention`, with the same submodule names."""

    def __init__(self, original: Any, context: StepContext) -> None:
        super().__init__()
        self.query_key_value = original.query_key_value
        self.dense = original.dense
        self._layer = int(original.layer_idx)
        self._num_heads = int(original.num_heads)
        self._head_dim = int(original.head_dim)
        self._context = context
        self._slopes_H = alibi_slopes(self._num_heads)

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor, *_args: Any, **_options: Any
    ) -> tuple[torch.Tensor, None]:
        """[1, T, hidden] -> residual added, as the original returns it."""
        attention = self._context.attention
        assert attention is not None
        fused = self.query_key_value(hidden_states)[0].view(-1, self._num_heads, 3, self._head_dim)
        queries, keys, values = fused.unbind(2)
        out_THD = attention(
            self._layer,
            queries,
            keys,
            values,
            AttentionOptions(
                scale=1.0 / math.sqrt(self._head_dim),
                slopes_H=self._slopes_H.to(hidden_states.device),
            ),
        )
        return residual + self.dense(out_THD.flatten(1)[None]), None


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """The geometric slopes of the ALiBi paper, with its rule for head counts that aren't 2^n."""
    closest = 2 ** math.floor(math.log2(num_heads))
    start = 2 ** (-(2 ** -(math.log2(closest) - 3)))
    slopes = [start**i for i in range(1, closest + 1)]
    if closest != num_heads:
        extra = 2 ** (-(2 ** -(math.log2(2 * closest) - 3)))
        slopes += [extra**i for i in range(1, 2 * (num_heads - closest), 2)]
    return torch.tensor(slopes)


def adopt_bloom(model: nn.Module, context: StepContext) -> None:
    """Replace every `BloomAttention` of `model`; other models are left as they are."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "BloomAttention":
            model.set_submodule(name, BloomPagedAttention(module, context))
