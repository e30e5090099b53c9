"""The adapters of a step as two Triton kernels: shrink, and scaled expand-add.

Not yet run on a GPU: `tests/kernels` compares both with the reference in Triton's interpreter, and
compiles them for sm_80 and sm_90. Importing this file needs triton, which is no dependency of the
server; `server.model.kernels.backends` imports it only where it is used.

Each program multiplies one unit of the step's `WorkPlan` (up to 16 tokens by the 16 rank components
of two pages), summing in float32. No two programs write the same place, the order of every
sum depends on the module's shape alone, so a token's result is the same bits in any batch.

Axes: T tokens, K inputs, N outputs, P pages, R rank components, U units, S shares of K.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from server.core.settings import PAGE_RANK
from server.model.kernels.work_plan import TILE_TOKENS, UNIT_ITEMS, WorkPlan, WorkTables
from server.model.page_layout import ModulePlace
from server.model.step_inputs import StepInputs

_UNIT_RANK = UNIT_ITEMS * PAGE_RANK
_BLOCK_K = 128
_BLOCK_N = 64
_SHARE_K = 1024
"""Inputs that one shrink program sums over; longer ones are shared out and summed in order."""


class TritonAdapterWork:
    """Drop-in for `reference.AdapterWork`: the work of one step, sorted once for all modules.

    `tables` is given by who keeps the plan in memory of its own (a captured graph); the step's
    `work_pages` and `work_scales` must then stay where they are, too.
    """

    def __init__(self, step: StepInputs, tables: WorkTables | None = None) -> None:
        self._pages = step.work_pages
        self._scales = step.work_scales
        if tables is None and len(step.work_pages):
            plan = WorkPlan.for_step(step)
            tables = WorkTables(plan.num_tiles, plan.num_units, device=step.work_pages.device)
            tables.load(plan)
        self._tables = tables

    @property
    def is_empty(self) -> bool:
        return self._tables is None

    def add(
        self,
        out_TN: torch.Tensor,
        inputs_TK: torch.Tensor,
        factors: tuple[torch.Tensor, torch.Tensor],
        module_scales: torch.Tensor,
        place: ModulePlace,
    ) -> None:
        """out += sum over each token's work items of scale * (inputs A^T) B, summed in float32.

        Rounds to the factors' dtype between the two products and to that of `out` once, after the
        sum. Pages whose scale for this module is 0 are not read. `out_TN` is written in place.
        """
        tables = self._tables
        if tables is None:
            return
        a_PRK, b_PRN = factors
        num_inputs, num_outputs = a_PRK.shape[2], b_PRN.shape[2]
        assert a_PRK.shape[1] == b_PRN.shape[1] == PAGE_RANK
        assert a_PRK.stride()[1:] == (num_inputs, 1)
        assert b_PRN.stride()[1:] == (num_outputs, 1)
        assert out_TN.stride(1) == 1, out_TN.stride()
        if inputs_TK.stride(1) != 1:
            inputs_TK = inputs_TK.contiguous()
        num_shares = triton.cdiv(num_inputs, _SHARE_K)
        h_SUTR = torch.empty(
            (num_shares, tables.num_units, TILE_TOKENS, _UNIT_RANK),
            dtype=torch.float32,
            device=out_TN.device,
        )
        scales_P = module_scales[:, place.index]
        shared = {"PAGE_RANK": PAGE_RANK, "UNIT_RANK": _UNIT_RANK, "TILE_TOKENS": TILE_TOKENS}
        _shrink_kernel[(tables.num_units, num_shares)](
            h_SUTR, inputs_TK, a_PRK,
            tables.tile_tokens, tables.unit_tiles, tables.unit_items, tables.unit_ends,
            self._pages, self._scales, scales_P,
            num_inputs, tables.num_units,
            inputs_TK.stride(0), a_PRK.stride(0), scales_P.stride(0),
            SHARE_K=_SHARE_K, BLOCK_K=_BLOCK_K, **shared,
        )  # fmt: skip
        _expand_kernel[(tables.num_tiles, triton.cdiv(num_outputs, _BLOCK_N))](
            out_TN, h_SUTR, b_PRN,
            tables.tile_tokens, tables.unit_starts, tables.unit_items, tables.unit_ends,
            self._pages, self._scales, scales_P,
            num_outputs, tables.num_units,
            out_TN.stride(0), b_PRN.stride(0), scales_P.stride(0),
            NUM_SHARES=num_shares, BLOCK_N=_BLOCK_N, **shared,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _unit_scales(
    item: Any, end: Any, pages: Any, scales: Any, module_scales: Any, module_stride: Any
) -> Any:
    """Page of each rank component's item, and its factor: 0 beyond the list's end."""
    valid = item < end
    page_R = tl.load(pages + item, mask=valid, other=0).to(tl.int64)
    scale_R = tl.load(scales + item, mask=valid, other=0.0)
    scale_R = scale_R * tl.load(module_scales + page_R * module_stride, mask=valid, other=0.0)
    return page_R, scale_R


@triton.jit  # type: ignore[untyped-decorator]
def _shrink_kernel(
    h, inputs, a,  # noqa: ANN001
    tile_tokens, unit_tiles, unit_items, unit_ends,
    pages, scales, module_scales,
    num_inputs, num_units,
    input_stride, page_stride, module_stride,
    SHARE_K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PAGE_RANK: tl.constexpr,
    UNIT_RANK: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
):  # fmt: skip
    pass
