"""4-bit, int8 and bf16 projections: exact weights, right sums, bits that no neighbour changes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from adapters.base.bitsandbytes_import import import_bitsandbytes
from server.native.ops import NativeOps
from server.native.weights import (
    PackedWeight,
    dequantize,
    embed,
    pack_bf16,
    pack_bitsandbytes,
    pack_int8,
    pack_nf4,
    row_major_bf16,
)

SHAPES = [(64, 64), (960, 576), (100, 192), (16, 128), (33, 256), (48, 2304)]
ROW_COUNTS = [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 24, 25, 31, 40]


def _matrix(num_outputs: int, num_inputs: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_outputs, num_inputs, generator=generator).to(torch.bfloat16)


def _quantized(matrix: Tensor, scheme: str, nested: bool) -> tuple[Tensor, tuple[Tensor, object]]:
    """(what bitsandbytes dequantises to in bf16, its codes and state)."""
    functional = import_bitsandbytes().functional
    codes, state = functional.quantize_4bit(matrix, quant_type=scheme, compress_statistics=nested)
    return functional.dequantize_4bit(codes, state), (codes, state)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_weights_are_bitsandbytes_bit_for_bit(
    ops: NativeOps, shape: tuple[int, int], scheme: str, nested: bool
) -> None:
    expected, pair = _quantized(_matrix(*shape), scheme, nested)
    packed = pack_bitsandbytes(ops.library, pair)
    assert torch.equal(
        dequantize(ops.library, packed).view(torch.int16), expected.view(torch.int16)
    )
    rows = torch.arange(shape[0], dtype=torch.int32)
    assert torch.equal(embed(ops.library, packed, rows), expected.float())


def test_several_matrices_pack_into_one(ops: NativeOps) -> None:
    parts = [_quantized(_matrix(n, 128, seed=n), "nf4", True) for n in (40, 24, 8)]
    packed = pack_bitsandbytes(ops.library, *(pair for _, pair in parts))
    expected = torch.cat([matrix for matrix, _ in parts])
    assert torch.equal(dequantize(ops.library, packed), expected)


def _all_kinds(ops: NativeOps, shape: tuple[int, int]) -> list[tuple[PackedWeight, Tensor]]:
    matrix = _matrix(*shape)
    nf4, pair = _quantized(matrix, "nf4", True)
    int8 = pack_int8(ops.library, matrix)
    int8_values = embed(ops.library, int8, torch.arange(shape[0], dtype=torch.int32))
    # Rounding to 255 steps: off by half a step of the row's own scale at most.
    row_steps = matrix.float().abs().amax(dim=1, keepdim=True) / 127
    assert ((int8_values - matrix.float()).abs() <= row_steps * 0.5001).all()
    return [
        (pack_bitsandbytes(ops.library, pair), nf4.float()),
        (pack_bf16(ops.library, matrix), matrix.float()),
        (int8, int8_values),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_match_fp32(ops: NativeOps, shape: tuple[int, int]) -> None:
    x = _matrix(40, shape[1], seed=7)
    bias = torch.randn(shape[0], generator=torch.Generator().manual_seed(3))
    for weight, values in _all_kinds(ops, shape):
        expected = x.float() @ values.T
        largest = expected.abs().max()
        # fp32 sums of the same products: only their order differs.
        sums = ops.linear(x, weight, out_dtype=torch.float32)
        assert (sums - expected).abs().max() <= 3e-6 * largest
        rounded = ops.linear(x, weight, bias)
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(rounded, (sums + bias).to(torch.bfloat16))


@pytest.mark.parametrize("shape", [(960, 576), (33, 256), (48, 2304)])
def test_a_row_has_the_same_bits_in_every_batch(ops: NativeOps, shape: tuple[int, int]) -> None:
    x = _matrix(48, shape[1], seed=7)
    for weight, _ in _all_kinds(ops, shape):
        together = ops.linear(x, weight, out_dtype=torch.float32)
        for count in ROW_COUNTS:
            for first in (0, 5):
                part = ops.linear(
                    x[first : first + count].contiguous(), weight, out_dtype=torch.float32
                )
                assert torch.equal(part, together[first : first + count]), (count, first)


def test_power_of_two_rows_are_spread_without_changing_bits(ops: NativeOps) -> None:
    x = _matrix(9, 1024)
    weight = pack_bf16(ops.library, _matrix(64, 1024, seed=1))
    whole = ops.linear(x, weight, out_dtype=torch.float32)
    assert torch.equal(whole[3:4], ops.linear(x[3:4], weight, out_dtype=torch.float32))


def test_calls_from_several_threads_take_turns(ops: NativeOps) -> None:
    weight = pack_bf16(ops.library, _matrix(256, 128))
    inputs = [_matrix(rows, 128, seed=rows) for rows in range(1, 33)]
    expected = [ops.linear(x, weight) for x in inputs]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(5):
            results = list(callers.map(lambda x: ops.linear(x, weight), inputs))
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_no_rows_is_an_empty_result(ops: NativeOps) -> None:
    weight = pack_bf16(ops.library, _matrix(32, 64))
    assert ops.linear(torch.empty(0, 64, dtype=torch.bfloat16), weight).shape == (0, 32)


def test_row_major_embedding_is_not_copied(ops: NativeOps) -> None:
    table = _matrix(20, 64)
    weight = row_major_bf16(table)
    assert weight.data.data_ptr() == table.data_ptr()
    ids = torch.tensor([19, 0, 7], dtype=torch.int32)
    assert torch.equal(embed(ops.library, weight, ids), table[ids.long()].float())
    with pytest.raises(ValueError, match=r"outside 0\.\.19"):
        embed(ops.library, weight, torch.tensor([20], dtype=torch.int32))


def test_wrong_inputs_are_refused_by_name(ops: NativeOps) -> None:
    weight = pack_bf16(ops.library, _matrix(32, 64))
    with pytest.raises(ValueError, match=r"x is torch\.float32"):
        ops.linear(torch.zeros(1, 64), weight)
    with pytest.raises(ValueError, match="multiple of 64"):
        pack_nf4(
            ops.library, torch.zeros(48, dtype=torch.uint8), torch.zeros(1), torch.zeros(16), 1, 96
        )
    with pytest.raises(ValueError, match="absmax is"):
        pack_nf4(
            ops.library, torch.zeros(32, dtype=torch.uint8), torch.zeros(2), torch.zeros(16), 1, 64
        )
