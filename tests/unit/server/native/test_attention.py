"""Paged attention against plain torch, and its bits against how the prompt was cut."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from server.native.ops import NativeOps, PagedBatch

BLOCK_SIZE = 8
NUM_BLOCKS = 200


class Cache:
    """One layer's paged keys and values; NaN wherever nothing was written."""

    def __init__(self, num_kv_heads: int, head_dim: int, lengths: list[int], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (NUM_BLOCKS, BLOCK_SIZE, num_kv_heads, head_dim)
        self.keys = torch.full(shape, torch.nan, dtype=torch.bfloat16)
        self.values = torch.full(shape, torch.nan, dtype=torch.bfloat16)
        blocks = torch.randperm(NUM_BLOCKS, generator=generator).tolist()
        self.tables: list[list[int]] = []
        self.sequences: list[tuple[Tensor, Tensor]] = []
        for length in lengths:
            table = [blocks.pop() for _ in range(math.ceil(length / BLOCK_SIZE))]
            k, v = (
                torch.randn(length, num_kv_heads, head_dim, generator=generator).to(torch.bfloat16)
                for _ in range(2)
            )
            for position in range(length):
                block = table[position // BLOCK_SIZE]
                self.keys[block, position % BLOCK_SIZE] = k[position]
                self.values[block, position % BLOCK_SIZE] = v[position]
            self.tables.append(table)
            self.sequences.append((k, v))

    def batch(self, rows: list[tuple[int, int, int]]) -> PagedBatch:
        """Rows of (sequence, first position, number of tokens)."""
        width = max(len(self.tables[s]) for s, _, _ in rows)
        starts = [0]
        for _, _, count in rows:
            starts.append(starts[-1] + count)
        tables = [self.tables[s] + [-1] * (width - len(self.tables[s])) for s, _, _ in rows]
        return PagedBatch(
            torch.tensor(starts, dtype=torch.int32),
            torch.tensor([first + count for _, first, count in rows], dtype=torch.int32),
            torch.tensor(tables, dtype=torch.int32),
        )


def _expected(
    queries_THD: Tensor, keys: Tensor, values: Tensor, first: int, scale: float, window: int,
    softcap: float,
) -> Tensor:  # fmt: skip
    group = queries_THD.shape[1] // keys.shape[1]
    k = keys.float().repeat_interleave(group, dim=1)
    v = values.float().repeat_interleave(group, dim=1)
    scores = torch.einsum("thd,shd->hts", queries_THD.float(), k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(first, first + queries_THD.shape[0])[:, None]
    key = torch.arange(k.shape[0])[None]
    hidden = key > position
    if window:
        hidden = hidden | (key <= position - window)
    scores = scores.masked_fill(hidden, -torch.inf)
    return torch.einsum("hts,shd->thd", torch.softmax(scores, -1), v)


LENGTHS = [1, 5, 33, 250, 256, 257, 600]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window", "softcap"),
    [
        (9, 3, 64, 0, 0.0),
        (4, 4, 16, 0, 0.0),
        (8, 2, 128, 0, 0.0),
        (4, 2, 80, 0, 0.0),
        (6, 2, 10, 0, 0.0),
        (9, 3, 64, 20, 0.0),
        (4, 2, 32, 300, 5.0),
        (20, 1, 64, 0, 0.0),
    ],
)
def test_matches_plain_torch(
    ops: NativeOps, heads: int, kv_heads: int, head_dim: int, window: int, softcap: float
) -> None:
    cache = Cache(kv_heads, head_dim, LENGTHS)
    decode = [(s, length - 1, 1) for s, length in enumerate(LENGTHS)]
    chunks = [(2, 0, 33), (3, 190, 60), (6, 480, 120), (5, 0, 257)]
    rows = decode + chunks
    batch = cache.batch(rows)
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(int(batch.query_starts[-1]), heads, head_dim, generator=generator)
    queries = queries.to(torch.bfloat16)
    scale = head_dim**-0.5
    result = ops.attention(
        queries, cache.keys, cache.values, batch, scale=scale, window=window, softcap=softcap
    )
    for row, (sequence, first, count) in enumerate(rows):
        begin = int(batch.query_starts[row])
        k, v = cache.sequences[sequence]
        end = first + count
        expected = _expected(
            queries[begin : begin + count], k[:end], v[:end], first, scale, window, softcap
        )
        # Probabilities and result are rounded to bf16 (8 bits): a hundredth of the values' size.
        assert (result[begin : begin + count].float() - expected).abs().max() < 0.02, (
            row,
            rows[row],
        )


@pytest.mark.parametrize(("heads", "kv_heads", "window"), [(9, 3, 0), (9, 3, 40), (4, 4, 0)])
def test_bits_dont_depend_on_chunks_or_neighbours(
    ops: NativeOps, heads: int, kv_heads: int, window: int
) -> None:
    length = 560
    cache = Cache(kv_heads, 64, [length, 300])
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(length, heads, 64, generator=generator).to(torch.bfloat16)

    def run(rows: list[tuple[int, int, int]]) -> Tensor:
        picked = torch.cat([queries[first : first + count] for _, first, count in rows])
        return ops.attention(
            picked, cache.keys, cache.values, cache.batch(rows), scale=0.125, window=window
        )

    whole = run([(0, 0, length)])
    for cuts in ([0, 100, 101, 357, 560], [0, 1, 17, 255, 256, 257, 513, 560]):
        spans = list(itertools.pairwise(cuts))
        parts = [run([(0, a, b - a)]) for a, b in spans]
        assert torch.equal(torch.cat(parts), whole)
    decodes = [(0, position, 1) for position in range(0, length, 7)]
    together = run([*decodes, (1, 200, 64)])
    for index, (_, position, _) in enumerate(decodes):
        assert torch.equal(together[index], whole[position]), position
        assert torch.equal(run([(0, position, 1)])[0], whole[position]), position
