"""The Triton attention kernel against the reference."""

from typing import Any

import pytest
import torch

from server.model.geometry import AttentionOptions
from server.model.kernels import reference, triton_attention
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs
from tests.kernels.steps import Row, device, make_cache, make_step

# Outputs are averages of values of about 1. The kernel keeps scores in float32 where the reference
# rounds them to the dtype first (a score of 8 by 2^-6 in bf16); both round weights and result.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 6e-2, torch.float16: 1e-2}

ROWS: list[Row] = [(1, 0, []), (1, 13, []), (1, 69, []), (21, 0, []), (2, 6, []), (7, 70, [])]


def run(
    rows: list[Row],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    key_dim: int = 16,
    value_dim: int | None = None,
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
    piece_tokens: int = triton_attention.PIECE_TOKENS,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel and the reference give."""
    step = make_step(rows, block_size=block_size)
    num_blocks = int(step.block_tables.max()) + 1
    cache = make_cache(
        kv_heads=kv_heads, key_dim=key_dim, value_dim=value_dim or key_dim,
        num_blocks=num_blocks, block_size=block_size, dtype=dtype,
    )  # fmt: skip
    queries = make_queries(step, heads, key_dim, dtype)
    attention = AttentionOptions(scale=key_dim**-0.5, **options)
    got = triton_attention.attend(queries, cache, 1, step, attention, piece_tokens=piece_tokens)
    return got, reference.attend(queries, cache, 1, step, attention)


def make_queries(step: StepInputs, heads: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """[T, H, D] with the heads outermost in memory, as modelling code hands them over."""
    generator = torch.Generator().manual_seed(2)
    queries = torch.randn(heads, len(step.token_ids), dim, generator=generator) * 2
    return queries.to(device(), dtype).transpose(0, 1)


def check(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, atol=TOLERANCES[got.dtype], rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_mixed_batch(dtype: torch.dtype) -> None:
    check(*run(ROWS, dtype=dtype))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "key_dim", "value_dim"),
    [(9, 3, 20, 20), (4, 4, 16, 16), (5, 1, 16, 24), (20, 1, 8, 8), (2, 2, 130, 130)],
)
def test_head_shapes(heads: int, kv_heads: int, key_dim: int, value_dim: int) -> None:
    """Groups of 3, of 1, one group of 5 and of 20, heads that fill no block."""
    check(*run(ROWS, heads=heads, kv_heads=kv_heads, key_dim=key_dim, value_dim=value_dim))


@pytest.mark.parametrize("window", [1, 8, 65])
def test_sliding_window(window: int) -> None:
    check(*run(ROWS, sliding_window=window))


def test_softcap_and_slopes() -> None:
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], device=device())
    check(*run(ROWS, softcap=3.0, sliding_window=8))
    check(*run(ROWS, slopes_H=slopes))


@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_block_sizes(block_size: int) -> None:
    check(*run(ROWS, block_size=block_size))


@pytest.mark.parametrize("window", [None, 40])
def test_long_sequences_are_attended_to_in_pieces(window: int | None) -> None:
    """Rows of one to four pieces; with a window the first pieces of a row hold nothing."""
    rows: list[Row] = [(1, length, []) for length in (5, 63, 64, 150, 210)]
    check(*run(rows, sliding_window=window, piece_tokens=64))


def test_a_row_has_the_same_bits_alone_and_in_a_batch() -> None:
    """Also when a longer neighbour makes the step run in pieces."""
    lengths = (5, 100, 200)
    step = make_step([(1, length, []) for length in lengths])
    cache = make_cache(
        kv_heads=2, key_dim=16, value_dim=16, num_blocks=int(step.block_tables.max()) + 1,
        block_size=4, dtype=torch.bfloat16,
    )  # fmt: skip
    queries = make_queries(step, 4, 16, torch.bfloat16)
    together = attend(queries, cache, step)
    for row, length in enumerate(lengths):
        alone = make_step([(1, length, [])])
        width = alone.block_tables.shape[1]
        alone.block_tables.copy_(step.block_tables[row : row + 1, :width])
        out = attend(queries[row : row + 1], cache, alone)
        assert torch.equal(out[0], together[row])


def attend(queries: torch.Tensor, cache: KVCache, step: StepInputs) -> torch.Tensor:
    return triton_attention.attend(
        queries, cache, 0, step, AttentionOptions(scale=0.25), piece_tokens=64
    )
