"""Matrices in the kernels' own layout, made once at load; the originals can then be freed."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from adapters.base.bitsandbytes_import import import_bitsandbytes
from server.native import abi
from server.native.build import NativeLibrary

Arithmetic = Literal["bfloat16", "int8"]
"""What weights are multiplied with: activations as they are, or rounded to int8 in blocks of 64."""

BLOCK_SIZE = 64
_LANES = 16
_LARGEST_LEVEL = 127


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_tensor(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]
) -> None:
    """Raises `ValueError` unless `tensor` is a contiguous CPU tensor of `dtype` and `shape`."""
    have = tensor.shape
    fits = len(have) == len(shape)
    for wanted, size in zip(shape, have, strict=False):  # in the open: steps call this often
        if wanted is not None and wanted != size:
            fits = False
    if not fits or tensor.dtype != dtype or not tensor.is_contiguous() or tensor.is_cuda:
        raise ValueError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, contiguous: "
            f"{tensor.is_contiguous()}; the kernel takes contiguous {dtype} {shape} on the CPU"
        )


@dataclass(frozen=True)
class PackedWeight:
    """A matrix [num_outputs, num_inputs] as the kernels read it; see csrc/weights/weights.h.

    `scales` is fp32: absmax per block (NF4), factor per output (int8), else None. `code` is the
    16-entry table of the 4-bit format; int8 arithmetic rounds it to multiples of `code_step`.
    """

    kind: int
    num_outputs: int
    num_inputs: int
    data: Tensor
    scales: Tensor | None = None
    code: Tensor | None = None
    code_step: float = 0.0

    @property
    def size_bytes(self) -> int:
        return sum(t.nbytes for t in (self.data, self.scales, self.code) if t is not None)

    @cached_property
    def structure(self) -> abi.Weight:
        """The C view; borrows this object's tensors."""
        return abi.Weight(
            self.kind, self.num_outputs, self.num_inputs, self.code_step, self.data.data_ptr(),
            None if self.scales is None else self.scales.data_ptr(),
            None if self.code is None else self.code.data_ptr(),
        )  # fmt: skip


def _padded(num_outputs: int) -> int:
    return -(-num_outputs // _LANES) * _LANES


def _require_arithmetic(library: NativeLibrary, arithmetic: Arithmetic) -> None:
    _require(
        arithmetic != "int8" or library.instruction_set.multiplies_bytes,
        f"int8 arithmetic needs AVX512-VNNI; these kernels are {library.instruction_set.value}",
    )


def best_code_step(code: Tensor) -> float:
    """The step whose multiples, at most 127 of them, lie closest to a format's 16 codes."""
    steps = code.abs().max().double() / torch.arange(_LARGEST_LEVEL // 2, _LARGEST_LEVEL + 1)
    steps = steps[:, None]
    errors = (code.double() / steps).round() * steps - code.double()
    return float(steps[errors.square().sum(dim=1).argmin()])


def pack_nf4(
    library: NativeLibrary,
    packed: Tensor,
    absmax: Tensor,
    code: Tensor,
    num_outputs: int,
    num_inputs: int,
    arithmetic: Arithmetic = "bfloat16",
) -> PackedWeight:
    """From bitsandbytes' layout: `packed` uint8, two codes a byte along row-major [N, K], the first
    in the high nibble; `absmax` fp32 per 64 weights (double quantisation undone); `code` fp32 [16].

    Serves NF4 and FP4 alike. Several matrices over one input are packed as one by concatenating
    their `packed` and `absmax`. Raises `ValueError` when K isn't a multiple of 64, or when these
    kernels lack the arithmetic.
    """
    _require_arithmetic(library, arithmetic)
    _require(
        num_inputs % BLOCK_SIZE == 0,
        f"num_inputs is {num_inputs}; the 4-bit kernels need a multiple of {BLOCK_SIZE}",
    )
    count = num_outputs * num_inputs
    packed, absmax = packed.reshape(-1).contiguous(), absmax.reshape(-1).contiguous()
    code = code.detach().to(torch.float32).contiguous()
    require_tensor("packed", packed, torch.uint8, (count // 2,))
    require_tensor("absmax", absmax, torch.float32, (count // BLOCK_SIZE,))
    require_tensor("code", code, torch.float32, (16,))
    padded = _padded(num_outputs)
    data = library.arena.zeros(padded * num_inputs // 8, torch.int32)
    scales = library.arena.zeros(padded * num_inputs // BLOCK_SIZE, torch.float32)
    kind, step = abi.KIND_NF4, 0.0
    if arithmetic == "int8":
        kind, step = abi.KIND_NF4_BYTES, best_code_step(code)
    library.functions.sy_pack_nf4(
        packed.data_ptr(), absmax.data_ptr(), num_outputs, num_inputs, kind,
        data.data_ptr(), scales.data_ptr(),
    )  # fmt: skip
    return PackedWeight(kind, num_outputs, num_inputs, data, scales, code.clone(), step)


def plain_absmax(quant_state: Any) -> Tensor:
    """fp32 absmax of a bitsandbytes quant state, its double quantisation undone."""
    if not quant_state.nested:
        plain: Tensor = quant_state.absmax
        return plain.to(torch.float32)
    functional = import_bitsandbytes().functional
    absmax: Tensor = functional.dequantize_blockwise(quant_state.absmax, quant_state.state2)
    offset: Tensor = quant_state.offset
    return (absmax + offset).to(torch.float32)


def pack_bitsandbytes(
    library: NativeLibrary, *weights: tuple[Tensor, Any], arithmetic: Arithmetic = "bfloat16"
) -> PackedWeight:
    """One packed matrix of (Params4bit data, quant state) pairs over the same input, in order.

    The weights must be in bitsandbytes' plain layout, which an eval-mode CPU forward of
    `Linear4bit` replaces in place: pack before any forward.
    """
    first = weights[0][1]
    codes = torch.cat([data.reshape(-1).view(torch.uint8) for data, _ in weights])
    absmax = torch.cat([plain_absmax(state).reshape(-1) for _, state in weights])
    num_inputs = int(first.shape[1])
    for _, state in weights:
        _require(
            getattr(state, "packing_format_for_cpu", False) is False,
            "a 4-bit weight was repacked by an eval-mode forward; pack before any forward",
        )
        _require(int(state.shape[1]) == num_inputs, "the weights have different inputs")
        _require(
            int(state.blocksize) == BLOCK_SIZE,
            f"block size is {state.blocksize}; the kernels take {BLOCK_SIZE}",
        )
    num_outputs = sum(int(state.shape[0]) for _, state in weights)
    return pack_nf4(library, codes, absmax, first.code, num_outputs, num_inputs, arithmetic)


def pack_bf16(library: NativeLibrary, *rows: Tensor) -> PackedWeight:
    """bf16 matrices [N, K] over the same input, stacked; K even."""
    matrix = torch.cat([r.detach() for r in rows]).to(torch.bfloat16).contiguous()
    num_outputs, num_inputs = matrix.shape
    _require(num_inputs % 2 == 0, f"num_inputs is {num_inputs}; the kernels need an even number")
    data = library.arena.zeros(_padded(num_outputs) * num_inputs // 2, torch.int32)
    library.functions.sy_pack_bf16(matrix.data_ptr(), num_outputs, num_inputs, data.data_ptr())
    return PackedWeight(abi.KIND_BF16, num_outputs, num_inputs, data)


def pack_int8(
    library: NativeLibrary, rows: Tensor, arithmetic: Arithmetic = "bfloat16"
) -> PackedWeight:
    """[N, K] rounded to symmetric int8 with one scale per output; K a multiple of 4."""
    _require_arithmetic(library, arithmetic)
    matrix = rows.detach().to(torch.bfloat16).contiguous()
    num_outputs, num_inputs = matrix.shape
    _require(num_inputs % 4 == 0, f"num_inputs is {num_inputs}; int8 needs a multiple of 4")
    kind, width = abi.KIND_INT8, num_inputs
    if arithmetic == "int8":
        kind, width = abi.KIND_INT8_BYTES, -(-num_inputs // 8) * 8
    data = library.arena.zeros(_padded(num_outputs) * width // 4, torch.int32)
    scales = library.arena.zeros(_padded(num_outputs), torch.float32)
    library.functions.sy_pack_int8(
        matrix.data_ptr(), num_outputs, num_inputs, kind, data.data_ptr(), scales.data_ptr()
    )
    return PackedWeight(kind, num_outputs, num_inputs, data, scales)


def row_major_bf16(rows: Tensor) -> PackedWeight:
    """A bf16 matrix as it is, for token lookup only (no copy when it is contiguous bf16)."""
    matrix = rows.detach().to(torch.bfloat16).contiguous()
    return PackedWeight(abi.KIND_ROWS_BF16, matrix.shape[0], matrix.shape[1], matrix)


def dequantize(library: NativeLibrary, weight: PackedWeight) -> Tensor:
    """bf16 [N, K] of a 4-bit weight, exactly as the projections use it."""
    _require(weight.kind == abi.KIND_NF4, "dequantize takes a 4-bit weight")
    rows = torch.empty(weight.num_outputs, weight.num_inputs, dtype=torch.bfloat16)
    library.functions.sy_unpack_nf4(weight.structure, rows.data_ptr())
    return rows


def embed(library: NativeLibrary, weight: PackedWeight, token_ids: Tensor) -> Tensor:
    """fp32 rows `token_ids` (int32) of any packed weight: the token lookup of a tied embedding."""
    require_tensor("token_ids", token_ids, torch.int32, (None,))
    if (
        token_ids.numel()
        and not 0 <= int(token_ids.min()) <= int(token_ids.max()) < weight.num_outputs
    ):
        raise ValueError(f"a token id is outside 0..{weight.num_outputs - 1}")
    out = torch.empty(token_ids.numel(), weight.num_inputs, dtype=torch.float32)
    library.functions.sy_embed(
        weight.structure, token_ids.data_ptr(), token_ids.numel(), out.data_ptr()
    )
    return out
