"""Our attention, as transformers' modelling code calls it.

transformers looks an attention function up by name and hands it each layer's queries, keys and
values; what is particular to the step is in the context that `share_context` gave to the layers.
A name without a registered mask function also tells the library to build no mask.
"""

from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface

from server.model.forward.step_context import StepContext
from server.model.geometry import AttentionOptions

ATTENTION_NAME = "switchyard_paged"

_CONTEXT = "switchyard_step_context"

_HARMLESS = {"position_ids", "position_embeddings", "head_mask", "dropout", "cu_seq_lens_q",
             "cu_seq_lens_k", "max_length_q", "max_length_k", "cache_params", "past_key_values",
             "output_attentions", "output_hidden_states", "output_router_logits", "use_cache",
             "is_causal", "deterministic", "cache_position", "return_dict"}  # fmt: skip
"""What may come along without a meaning for the scores of a causal step."""


class UnpagedAttentionError(Exception):
    """A layer attends in a way that the paged cache doesn't serve; the message says how."""


class StepAttention(Protocol):
    """Attention of one step over all layers."""

    def __call__(
        self,
        layer: int,
        queries_THD: torch.Tensor,
        keys_THD: torch.Tensor,
        values_THD: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        """Store keys and values, attend, and return [T, H, D]."""
        ...


def register_attention() -> None:
    """Make `ATTENTION_NAME` known to transformers (again and again is fine)."""
    AttentionInterface.register(ATTENTION_NAME, _attention_forward)


def share_context(model: nn.Module, context: StepContext) -> None:
    """Let every module of `model` that attends find the step that it runs in."""
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            object.__setattr__(module, _CONTEXT, context)


def _attention_forward(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    context: StepContext = getattr(module, _CONTEXT)
    assert context.attention is not None
    layer: Any = module.layer_idx
    _check(attention_mask, options)
    out_THD = context.attention(
        int(layer),
        query_1HTD[0].transpose(0, 1),
        key_1KTD[0].transpose(0, 1),
        value_1KTD[0].transpose(0, 1),
        AttentionOptions(
            scale=scaling if scaling is not None else query_1HTD.shape[-1] ** -0.5,
            sliding_window=sliding_window,
            softcap=softcap,
            sinks_H=s_aux,
        ),
    )
    return out_THD[None], None


def _check(attention_mask: torch.Tensor | None, options: dict[str, Any]) -> None:
    """Raises `UnpagedAttentionError` for what would change the scores and isn't served."""
    if attention_mask is not None:
        raise UnpagedAttentionError("a layer brings a mask of its own")
    for name, value in options.items():
        if name not in _HARMLESS and (isinstance(value, torch.Tensor) or value):
            raise UnpagedAttentionError(f"a layer attends with {name}")
