"""The native CPU kernels behind the generic way: 4-bit linears, adapter work, paged attention.

For the architectures that the native step doesn't describe. The kernels are those of
`server/native`; this file only gives them the call shapes of the reference.
"""

from typing import Any

import torch
from torch import nn

from adapters.base.modules import linear_shape
from server.model.adapter_pages.page_layout import ModulePlace, PageLayout
from server.model.geometry import AttentionOptions
from server.model.kernels import reference
from server.model.kernels.backends import KernelBackend
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs
from server.native.ops import (
    NativeBank,
    NativeOps,
    PagedBatch,
    Projection,
    Segment,
    WorkList,
)
from server.native.weights import (
    Arithmetic,
    PackedWeight,
    embed,
    pack_bf16,
    pack_bitsandbytes,
)

_MULTIPLE = 64


class NativeLinear(nn.Module):
    """A base linear over packed weights; bfloat16 in and out, float32 sums."""

    def __init__(self, ops: NativeOps, packed: PackedWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._ops = ops
        self._packed = packed
        self.bias = None if bias is None else bias.detach().float().contiguous()
        # Modelling code asks a linear for its dtype; the values are in the packed form only.
        self.weight = torch.empty(0, dtype=torch.bfloat16)

    @property
    def size_bytes(self) -> int:
        return self._packed.size_bytes

    def float_weight(self) -> torch.Tensor:
        """float32 [N, K], as the kernels use it."""
        rows = torch.arange(self._packed.num_outputs, dtype=torch.int32)
        return embed(self._ops.library, self._packed, rows)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., K] -> [..., N]."""
        flat = inputs.reshape(-1, inputs.shape[-1]).contiguous()
        out = self._ops.linear(flat, self._packed, self.bias)
        return out.view(*inputs.shape[:-1], -1)


class NativeWork:
    """Drop-in for `reference.AdapterWork`."""

    def __init__(
        self,
        step: StepInputs,
        ops: NativeOps,
        bank: NativeBank,
        projections: dict[int, Projection],
    ) -> None:
        self._ops = ops
        self._bank = bank
        self._projections = projections
        self._query_starts = step.query_starts
        self._work = WorkList(step.work_offsets, step.work_pages, step.work_scales)

    @property
    def is_empty(self) -> bool:
        return not len(self._work.pages)

    def add(
        self,
        out_TN: torch.Tensor,
        inputs_TK: torch.Tensor,
        factors: tuple[torch.Tensor, torch.Tensor],
        module_scales: torch.Tensor,
        place: ModulePlace,
    ) -> None:
        """out += the adapters' deltas of the module, summed in float32 and rounded once."""
        total = out_TN.float()
        self._ops.add_lora(
            total,
            inputs_TK.contiguous(),
            self._bank,
            self._projections[place.index],
            self._work,
            self._query_starts,
        )
        out_TN.copy_(total)


def native_backend(
    ops: NativeOps, bank: NativeBank, layout: PageLayout, arithmetic: Arithmetic = "bfloat16"
) -> KernelBackend:
    """The backend for one bank. What a kernel can't take falls back to plain torch."""
    dummy = pack_bf16(ops.library, torch.zeros(16, 2))
    projections = {
        place.index: Projection(
            PackedWeight(dummy.kind, place.out_features, place.in_features, dummy.data),
            segments=(Segment(place.index, 0, place.out_features),),
        )
        for place in layout.places
    }

    def make_work(step: StepInputs) -> NativeWork:
        return NativeWork(step, ops, bank, projections)

    def attend(
        queries_THD: torch.Tensor,
        cache: KVCache,
        layer: int,
        step: StepInputs,
        options: AttentionOptions,
    ) -> torch.Tensor:
        keys, values = cache.keys[layer], cache.values[layer]
        has_own_scores = options.slopes_H is not None or options.sinks_H is not None
        if has_own_scores or keys.shape != values.shape:
            return reference.attend(queries_THD, cache, layer, step, options)
        return ops.attention(
            queries_THD.contiguous(),
            keys,
            values,
            PagedBatch(step.query_starts, step.seq_lens, step.block_tables),
            scale=options.scale,
            window=options.sliding_window or 0,
            softcap=options.softcap or 0.0,
        )

    def make_linear(module: nn.Module) -> nn.Module:
        return pack_linear(ops, module, arithmetic) or module

    return KernelBackend("native-linears", make_work, attend, make_linear=make_linear)


def pack_linear(ops: NativeOps, module: Any, arithmetic: Arithmetic) -> NativeLinear | None:
    """The packed twin of a linear of any kind, or None where its sizes don't suit the kernels."""
    shape = linear_shape(module)
    if shape is None or shape[0] % _MULTIPLE:
        return None
    weight = module.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        packed = pack_bitsandbytes(ops.library, (weight.data, state), arithmetic=arithmetic)
    elif type(module).__name__ == "Conv1D":
        packed = pack_bf16(ops.library, weight.detach().T)
    else:
        packed = pack_bf16(ops.library, weight.detach())
    return NativeLinear(ops, packed, module.bias)
