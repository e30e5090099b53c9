"""Our attention, as transformers' modelling code calls it.

transformers looks an attention function up by name and hands it each layer's queries, keys and
values; what is particular to the step comes in through the forward's keyword arguments. A name
without a registered mask function also tells the library to build no mask.
"""

from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface

from server.model.geometry import AttentionOptions

ATTENTION_NAME = "switchyard_paged"


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


def _attention_forward(
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    step_attention: StepAttention | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    assert step_attention is not None, "this model was loaded for the paged engine"
    layer: Any = module.layer_idx
    for unserved in ("s_aux", "position_bias"):
        if options.get(unserved) is not None:
            raise NotImplementedError(f"attention with {unserved}")
    out_THD = step_attention(
        int(layer),
        query_1HTD[0].transpose(0, 1),
        key_1KTD[0].transpose(0, 1),
        value_1KTD[0].transpose(0, 1),
        AttentionOptions(
            scale=scaling if scaling is not None else query_1HTD.shape[-1] ** -0.5,
            sliding_window=sliding_window,
            softcap=softcap,
        ),
    )
    return out_THD[None], None
