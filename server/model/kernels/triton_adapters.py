"""The adapters of a step as two Triton kernels: shrink, and scaled expand-add.

Not yet run on a GPU: `tests/kernels` compares both with the reference in Triton's interpreter, and
compiles them for sm_80 and sm_90. Importing this file needs triton, which is no dependency of the
server; `server.model.kernels.backends` imports it only where it is used.

Each program multiplies one unit of the step's `WorkPlan` (up to 16 tokens by the 16 rank components
of two pages), summing in float32. No two programs write the same place, and the order of every sum
depends on the module's shape and the token's own work alone, never on the rest of the batch.

Axes: T tokens, K inputs, N outputs, P pages, R rank components, U units, S shares of K.
"""

import torch
import triton
import triton.language as tl

from adapters.rank_pages import PAGE_RANK
from server.model.adapter_pages.page_layout import ModulePlace
from server.model.kernels.work_plan import TILE_TOKENS, UNIT_ITEMS, WorkPlan, WorkTables
from server.model.step.step_inputs import StepInputs

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
def _unit_ranks(
    item: tl.tensor,
    end: tl.tensor,
    pages: tl.tensor,
    scales: tl.tensor,
    module_scales: tl.tensor,
    module_stride: tl.tensor,
    PAGE_RANK: tl.constexpr,
    UNIT_RANK: tl.constexpr,
) -> tl.tensor:
    """Page [R], row within the page [R] and factor [R] of a unit's rank components.

    The factor is 0 beyond the end of the work list.
    """
    rank_R = tl.arange(0, UNIT_RANK)
    item_R = item + rank_R // PAGE_RANK
    valid = item_R < end
    page_R = tl.load(pages + item_R, mask=valid, other=0).to(tl.int64)
    scale_R = tl.load(scales + item_R, mask=valid, other=0.0)
    scale_R *= tl.load(module_scales + page_R * module_stride, mask=valid, other=0.0)
    return page_R, rank_R % PAGE_RANK, scale_R


# What differs from step to step must not compile another variant.
@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_units"],
    do_not_specialize_on_alignment=[
        "tile_tokens",
        "unit_tiles",
        "unit_items",
        "unit_ends",
        "pages",
        "scales",
        "module_scales",
    ],
)
def _shrink_kernel(
    h: tl.tensor,
    inputs: tl.tensor,
    a: tl.tensor,
    tile_tokens: tl.tensor,
    unit_tiles: tl.tensor,
    unit_items: tl.tensor,
    unit_ends: tl.tensor,
    pages: tl.tensor,
    scales: tl.tensor,
    module_scales: tl.tensor,
    num_inputs: tl.tensor,
    num_units: tl.tensor,
    input_stride: tl.tensor,
    page_stride: tl.tensor,
    module_stride: tl.tensor,
    SHARE_K: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PAGE_RANK: tl.constexpr,
    UNIT_RANK: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
) -> None:
    """h[share, unit] = inputs[tokens of its tile] A[pages of the unit]^T over one share of K.

    Grid (units, shares). Writes h unscaled; leaves it undefined where the unit has no effect.
    """
    unit, share = tl.program_id(0), tl.program_id(1)
    tile = tl.load(unit_tiles + unit)
    if tile < 0:
        return
    page_R, row_R, scale_R = _unit_ranks(
        tl.load(unit_items + unit),
        tl.load(unit_ends + unit),
        pages,
        scales,
        module_scales,
        module_stride,
        PAGE_RANK,
        UNIT_RANK,
    )
    present_R = scale_R != 0.0
    if tl.sum(present_R.to(tl.int32), 0) == 0:
        return
    slot_T = tl.arange(0, TILE_TOKENS)
    token_T = tl.load(tile_tokens + tile * TILE_TOKENS + slot_T).to(tl.int64)
    inputs_T = inputs + token_T * input_stride
    a_R = a + page_R * page_stride + row_R * num_inputs
    total_TR = tl.zeros((TILE_TOKENS, UNIT_RANK), dtype=tl.float32)
    first = share * SHARE_K
    for start in range(first, min(first + SHARE_K, num_inputs), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside_K = k < num_inputs
        x_TK = tl.load(
            inputs_T[:, None] + k[None, :],
            mask=(token_T >= 0)[:, None] & inside_K[None, :],
            other=0.0,
        )
        a_KR = tl.load(
            a_R[None, :] + k[:, None], mask=inside_K[:, None] & present_R[None, :], other=0.0
        )
        total_TR = tl.dot(x_TK.to(a_KR.dtype), a_KR, total_TR, input_precision="ieee")
    place = (share * num_units + unit) * TILE_TOKENS * UNIT_RANK
    rank_R = tl.arange(0, UNIT_RANK)
    tl.store(h + place + slot_T[:, None] * UNIT_RANK + rank_R[None, :], total_TR)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_units"],
    do_not_specialize_on_alignment=[
        "tile_tokens",
        "unit_starts",
        "unit_items",
        "unit_ends",
        "pages",
        "scales",
        "module_scales",
    ],
)
def _expand_kernel(
    out: tl.tensor,
    h: tl.tensor,
    b: tl.tensor,
    tile_tokens: tl.tensor,
    unit_starts: tl.tensor,
    unit_items: tl.tensor,
    unit_ends: tl.tensor,
    pages: tl.tensor,
    scales: tl.tensor,
    module_scales: tl.tensor,
    num_outputs: tl.tensor,
    num_units: tl.tensor,
    out_stride: tl.tensor,
    page_stride: tl.tensor,
    module_stride: tl.tensor,
    NUM_SHARES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE_RANK: tl.constexpr,
    UNIT_RANK: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
) -> None:
    """out[tokens of the tile] += sum over its units of (scale * h) B[pages of the unit].

    Grid (tiles, blocks of N). A tile that nothing touches in this module is left unread.
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    slot_T = tl.arange(0, TILE_TOKENS)
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_N = n < num_outputs
    rank_R = tl.arange(0, UNIT_RANK)
    total_TN = tl.zeros((TILE_TOKENS, BLOCK_N), dtype=tl.float32)
    num_present = 0
    for unit in range(tl.load(unit_starts + tile), tl.load(unit_starts + tile + 1)):
        page_R, row_R, scale_R = _unit_ranks(
            tl.load(unit_items + unit),
            tl.load(unit_ends + unit),
            pages,
            scales,
            module_scales,
            module_stride,
            PAGE_RANK,
            UNIT_RANK,
        )
        present_R = scale_R != 0.0
        present = tl.sum(present_R.to(tl.int32), 0)
        num_present += present
        if present > 0:
            h_TR = tl.zeros((TILE_TOKENS, UNIT_RANK), dtype=tl.float32)
            for share in range(NUM_SHARES):
                place = (share * num_units + unit) * TILE_TOKENS * UNIT_RANK
                h_TR += tl.load(
                    h + place + slot_T[:, None] * UNIT_RANK + rank_R[None, :],
                    mask=present_R[None, :],
                    other=0.0,
                )
            b_RN = tl.load(
                (b + page_R * page_stride + row_R * num_outputs)[:, None] + n[None, :],
                mask=present_R[:, None] & inside_N[None, :],
                other=0.0,
            )
            scaled_TR = (h_TR * scale_R[None, :]).to(b_RN.dtype)
            total_TN = tl.dot(scaled_TR, b_RN, total_TN, input_precision="ieee")
    if num_present > 0:
        token_T = tl.load(tile_tokens + tile * TILE_TOKENS + slot_T).to(tl.int64)
        inside_TN = (token_T >= 0)[:, None] & inside_N[None, :]
        out_TN = out + (token_T * out_stride)[:, None] + n[None, :]
        before_TN = tl.load(out_TN, mask=inside_TN, other=0.0).to(tl.float32)
        tl.store(out_TN, (before_TN + total_TN).to(out.dtype.element_ty), mask=inside_TN)
