"""Attention of packed rows, row by row.

transformers masks attention between the rows of a packed sequence, and still computes all of it:
the work grows with the square of the sequence. On a CPU a packed step of short rows spent a third
of its time there. Here each row attends alone, causally, without a mask.
"""

from typing import Any

import torch

_NAME = "switchyard_rows_apart"


def attend_row_by_row(model: Any) -> bool:
    """Let `model` compute packed attention row by row; returns whether it does.

    Only of a model on a CPU with torch's own attention: a GPU has kernels for it. What isn't a
    packed sequence, or has rows longer than an attention window, is computed as before.
    """
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _attention)
    # The mask is built all the same: a layer that can't go row by row needs it.
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    model.set_attn_implementation(_NAME)
    return True


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: (rows, heads, tokens, width) to (rows, tokens, ...)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    lengths = packed_row_lengths(kwargs.get("position_ids"), key.shape[2])
    window = kwargs.get("sliding_window")
    if (
        len(lengths) < 2
        or len(query) != 1
        or (window is not None and max(lengths) > window)
        or kwargs.get("position_bias") is not None
        or not getattr(module, "is_causal", True)
    ):
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return attended
    options = {name: kwargs[name] for name in ("dropout", "scaling", "softcap") if name in kwargs}
    parts = zip(*(torch.split(t, lengths, dim=2) for t in (query, key, value)), strict=True)
    rows = [sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in parts]
    return torch.cat(rows, dim=1), None


def packed_row_lengths(position_ids: torch.Tensor | None, num_tokens: int) -> list[int]:
    """Tokens of each row of the one packed sequence that `position_ids` (1, tokens) describe.

    Empty for anything else: several sequences, other shapes of positions, a cache before them.
    """
    if position_ids is None or position_ids.shape != (1, num_tokens):
        return []
    positions = position_ids[0]
    starts = torch.cat([positions.new_tensor([0]), (positions.diff() != 1).nonzero()[:, 0] + 1])
    if positions[starts].any():
        return []
    ends = torch.cat([starts[1:], starts.new_tensor([num_tokens])])
    lengths: list[int] = (ends - starts).tolist()
    return lengths
