"""Int8 arithmetic: the sums it is defined by, close to exact inputs, bits no neighbour changes."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from adapters.base.bitsandbytes_import import import_bitsandbytes
from server.native.build import InstructionSet, load_native, supported_instruction_sets
from server.native.ops import NativeOps
from server.native.weights import (
    PackedWeight,
    best_code_step,
    embed,
    pack_bitsandbytes,
    pack_int8,
    plain_absmax,
)

BLOCK = 64
# Whole tiles, a lone tile, outputs that fill no tile, a long row.
NF4_SHAPES = [(960, 576), (16, 128), (33, 256), (100, 64), (48, 2304)]
# Inputs that fill no block, nor a pair of quads.
INT8_SHAPES = [(64, 64), (33, 576), (40, 68), (16, 4), (50, 200)]
ROW_COUNTS = [1, 2, 3, 4, 5, 8, 11, 12, 13, 22, 23, 33, 40]
INT8_SETS = [s for s in supported_instruction_sets() if s.multiplies_bytes]


@pytest.fixture(scope="module")
def ops() -> Iterator[NativeOps]:
    if not INT8_SETS:
        pytest.skip("int8 arithmetic needs AVX512-VNNI")
    library = load_native(INT8_SETS[-1])
    assert library is not None
    native = NativeOps(library, num_threads=2)
    yield native
    native.close()


def _matrix(num_rows: int, num_inputs: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_inputs, generator=generator).to(torch.bfloat16)


def _four_bit(matrix: Tensor, scheme: str) -> tuple[Tensor, object]:
    codes, state = import_bitsandbytes().functional.quantize_4bit(matrix, quant_type=scheme)
    return codes, state


def _rounded_inputs(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """int8 values [T, blocks, 64] and float32 steps [T, blocks], zeros behind the last input."""
    values = np.pad(x.float().numpy(), ((0, 0), (0, -x.shape[1] % BLOCK)))
    values = values.reshape(x.shape[0], -1, BLOCK)
    peaks = np.abs(values).max(axis=2)
    inverses = np.divide(np.float32(127), peaks, out=np.zeros_like(peaks), where=peaks > 0)
    return np.rint(values * inverses[..., None]), peaks / np.float32(127)


def _sums(x: Tensor, levels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Weights `levels` [N, blocks, 64] in `steps` [N, blocks]: float64 sums of exact block sums."""
    values, x_steps = _rounded_inputs(x)
    blocks = np.einsum("tbi,nbi->tnb", values, levels.astype(np.float64))
    return np.einsum("tnb,tb,nb->tn", blocks, x_steps.astype(np.float64), steps)


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", NF4_SHAPES)
def test_four_bit_sums_are_those_of_the_definition(
    ops: NativeOps, shape: tuple[int, int], scheme: str
) -> None:
    codes, state = _four_bit(_matrix(*shape, seed=0), scheme)
    packed = pack_bitsandbytes(ops.library, (codes, state), arithmetic="int8")
    assert packed.code is not None
    nibbles = torch.stack([codes.flatten() >> 4, codes.flatten() & 15], dim=1).flatten()
    levels = (packed.code / packed.code_step).round()[nibbles.long()].numpy()
    steps = plain_absmax(state).double().numpy() * packed.code_step
    x = _matrix(40, shape[1], seed=7)
    expected = _sums(x, levels.reshape(shape[0], -1, BLOCK), steps.reshape(shape[0], -1))
    result = ops.linear(x, packed, out_dtype=torch.float32).numpy()
    # fp32 sums of at most 36 block sums, which are exact.
    assert np.abs(result - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("shape", INT8_SHAPES)
def test_int8_sums_are_those_of_the_definition(ops: NativeOps, shape: tuple[int, int]) -> None:
    matrix = _matrix(*shape, seed=0)
    packed = pack_int8(ops.library, matrix, "int8")
    peaks = matrix.float().abs().amax(dim=1, keepdim=True)
    values = embed(ops.library, packed, torch.arange(shape[0], dtype=torch.int32))
    levels = (values * (127 / peaks)).round().numpy()
    levels = np.pad(levels, ((0, 0), (0, -shape[1] % BLOCK))).reshape(shape[0], -1, BLOCK)
    steps = np.repeat((peaks / 127).double().numpy(), levels.shape[1], axis=1)
    x = _matrix(40, shape[1], seed=7)
    expected = _sums(x, levels, steps)
    result = ops.linear(x, packed, out_dtype=torch.float32).numpy()
    assert np.abs(result - expected).max() <= 1e-6 * np.abs(expected).max()


def _both(ops: NativeOps, shape: tuple[int, int]) -> list[tuple[PackedWeight, PackedWeight]]:
    """A 4-bit and an int8 matrix, each for (exact inputs, int8 inputs)."""
    matrix = _matrix(*shape, seed=0)
    pair = _four_bit(matrix, "nf4")
    library = ops.library
    return [
        (pack_bitsandbytes(library, pair), pack_bitsandbytes(library, pair, arithmetic="int8")),
        (pack_int8(library, matrix), pack_int8(library, matrix, "int8")),
    ]


@pytest.mark.parametrize("shape", [(960, 576), (33, 256), (48, 2304)])
def test_sums_are_close_to_those_of_exact_inputs(ops: NativeOps, shape: tuple[int, int]) -> None:
    x = _matrix(40, shape[1], seed=7)
    for exact, rounded in _both(ops, shape):
        wanted = ops.linear(x, exact, out_dtype=torch.float32)
        error = (ops.linear(x, rounded, out_dtype=torch.float32) - wanted).std() / wanted.std()
        # Half a step of 127 in every input, and in a 4-bit code's level: below 1 % together.
        assert 1e-4 < float(error) < 0.01
        assert rounded.size_bytes == pytest.approx(exact.size_bytes, rel=0.02)
        rows = torch.arange(shape[0], dtype=torch.int32)
        assert torch.equal(embed(ops.library, rounded, rows), embed(ops.library, exact, rows))


@pytest.mark.parametrize("shape", [(960, 576), (33, 256), (48, 2304)])
def test_a_row_has_the_same_bits_in_every_batch(ops: NativeOps, shape: tuple[int, int]) -> None:
    x = _matrix(48, shape[1], seed=7)
    single = NativeOps(ops.library, num_threads=1)
    for _, weight in _both(ops, shape):
        together = ops.linear(x, weight, out_dtype=torch.float32)
        assert torch.equal(single.linear(x, weight, out_dtype=torch.float32), together)
        for count in ROW_COUNTS:
            for first in (0, 5):
                rows = x[first : first + count].contiguous()
                part = ops.linear(rows, weight, out_dtype=torch.float32)
                assert torch.equal(part, together[first : first + count]), (count, first)
    single.close()


def test_blocks_of_zeros_and_of_single_peaks(ops: NativeOps) -> None:
    x = torch.zeros(3, 128, dtype=torch.bfloat16)
    x[1, 70] = -3.0  # -127 whole steps: only the weights are rounded
    x[2, :64] = 1e-30
    for exact, rounded in _both(ops, (33, 128)):
        wanted = ops.linear(x, exact, out_dtype=torch.float32)
        result = ops.linear(x, rounded, out_dtype=torch.float32)
        assert not result[0].any()
        assert (result[1] - wanted[1]).abs().max() <= 0.01 * wanted[1].abs().max()
        assert result.isfinite().all()


def test_codes_lie_as_close_to_whole_steps_as_they_can() -> None:
    code = _four_bit(_matrix(64, 64, seed=0), "nf4")[1].code  # type: ignore[attr-defined]
    step = best_code_step(code)
    assert 63 <= 1.0 / step <= 127
    assert ((code / step).round() * step - code).abs().max() < 0.004


@pytest.mark.skipif(
    InstructionSet.AVX2 not in supported_instruction_sets(), reason="no native kernels here"
)
def test_kernels_without_it_refuse() -> None:
    library = load_native(InstructionSet.AVX2)
    assert library is not None
    with pytest.raises(ValueError, match="int8 arithmetic needs AVX512-VNNI; these kernels are"):
        pack_int8(library, _matrix(16, 64, seed=0), "int8")
    with pytest.raises(ValueError, match="int8 arithmetic needs"):
        pack_bitsandbytes(library, _four_bit(_matrix(16, 64, seed=0), "nf4"), arithmetic="int8")
