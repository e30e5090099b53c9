"""The AMX kernels over emulated tile instructions, against fp32 sums and the AVX-512 kernels.

No test here runs the real instructions: that needs a processor which has them.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from adapters.base.bitsandbytes_import import import_bitsandbytes
from server.native.build import InstructionSet, load_native, supported_instruction_sets
from server.native.ops import NativeOps
from server.native.weights import (
    PackedWeight,
    dequantize,
    embed,
    pack_bf16,
    pack_bitsandbytes,
    pack_int8,
)

pytestmark = pytest.mark.skipif(
    InstructionSet.AVX512_BF16 not in supported_instruction_sets(),
    reason="the rest of the AMX build is AVX-512",
)

# Whole tiles, a lone tile of 16 outputs, outputs that fill no tile, a k that is cut.
SHAPES = [(64, 64), (48, 192), (33, 256), (16, 2304)]
ROW_COUNTS = [1, 5, 16, 17, 32, 33, 70]


@pytest.fixture(scope="module")
def emulated() -> Iterator[NativeOps]:
    library = load_native(InstructionSet.AMX_EMULATED)
    assert library is not None
    native = NativeOps(library, num_threads=2)
    yield native
    native.close()


@pytest.fixture(scope="module")
def avx512() -> Iterator[NativeOps]:
    library = load_native(InstructionSet.AVX512_BF16)
    assert library is not None
    native = NativeOps(library, num_threads=2)
    yield native
    native.close()


def _matrix(num_rows: int, num_inputs: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_inputs, generator=generator).to(torch.bfloat16)


def _kinds(ops: NativeOps, matrix: Tensor) -> list[PackedWeight]:
    codes, state = import_bitsandbytes().functional.quantize_4bit(matrix, quant_type="nf4")
    return [
        pack_bitsandbytes(ops.library, (codes, state)),
        pack_bf16(ops.library, matrix),
        pack_int8(ops.library, matrix),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_match_fp32_and_avx512(
    emulated: NativeOps, avx512: NativeOps, shape: tuple[int, int]
) -> None:
    matrix = _matrix(*shape, seed=0)
    x = _matrix(max(ROW_COUNTS), shape[1], seed=1)
    rows = torch.arange(shape[0], dtype=torch.int32)
    kinds = zip(_kinds(emulated, matrix), _kinds(avx512, matrix), strict=True)
    for weight, other in kinds:
        values = embed(emulated.library, weight, rows)
        assert torch.equal(values, embed(avx512.library, other, rows))
        expected = x.float() @ values.T
        out = emulated.linear(x, weight, out_dtype=torch.float32)
        # fp32 sums of up to 2304 products of order 1, in another order.
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-3)
        vectors = avx512.linear(x, other, out_dtype=torch.float32)
        torch.testing.assert_close(out, vectors, rtol=1e-4, atol=1e-3)


def test_codes_unpack_to_the_same_weights(emulated: NativeOps) -> None:
    matrix = _matrix(48, 192, seed=0)
    codes, state = import_bitsandbytes().functional.quantize_4bit(matrix, quant_type="nf4")
    expected = import_bitsandbytes().functional.dequantize_4bit(codes, state)
    packed = pack_bitsandbytes(emulated.library, (codes, state))
    assert torch.equal(dequantize(emulated.library, packed), expected)


def test_a_row_has_the_same_bits_in_any_batch(emulated: NativeOps) -> None:
    matrix = _matrix(48, 2304, seed=0)
    x = _matrix(max(ROW_COUNTS), 2304, seed=1)
    for weight in _kinds(emulated, matrix):
        whole = emulated.linear(x, weight, out_dtype=torch.float32)
        for num_rows in ROW_COUNTS:
            part = emulated.linear(x[:num_rows].contiguous(), weight, out_dtype=torch.float32)
            assert torch.equal(part, whole[:num_rows])
        last = emulated.linear(x[-1:].contiguous(), weight, out_dtype=torch.float32)
        assert torch.equal(last, whole[-1:])
