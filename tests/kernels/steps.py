"""Steps, adapter banks and caches with random content, small enough for an interpreter."""

from collections.abc import Sequence

import torch

from server.core.batch import ScheduledBatch, ScheduledRow, WorkItem
from server.core.request import SamplingParams
from server.model.adapter_pages.bank import AdapterBank
from server.model.adapter_pages.page_layout import PageLayout
from server.model.geometry import AttentionGeometry
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs

Row = tuple[int, int, Sequence[tuple[int, float]]]
"""Tokens to compute, tokens computed before, and the (page, scale) pairs."""


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_step(rows: Sequence[Row], *, block_size: int = 4) -> StepInputs:
    """Decode rows (one token) first, as the scheduler orders them. Blocks aren't in order."""
    scheduled = []
    num_blocks = 0
    for index, (length, start, work) in enumerate(rows):
        count = -(-(start + length) // block_size)
        scheduled.append(
            ScheduledRow(
                sequence_id=index,
                token_ids=range(index + 1, index + 1 + length),
                start=start,
                block_ids=list(range(num_blocks, num_blocks + count))[::-1],
                work=[WorkItem(page, scale) for page, scale in work],
                sampling=SamplingParams(max_tokens=1),
                samples=True,
                seed=0,
                num_generated=0,
            )
        )
        num_blocks += count
    return StepInputs.from_batch(
        ScheduledBatch(tuple(scheduled)), block_size=block_size, device=device()
    )


def make_bank(
    shapes: dict[str, tuple[int, int]], *, num_pages: int, dtype: torch.dtype, seed: int = 0
) -> AdapterBank:
    """A bank in which every page touches every module."""
    generator = torch.Generator().manual_seed(seed)
    bank = AdapterBank(PageLayout.for_modules(shapes), num_pages, dtype=dtype, device=device())
    bank.pages.copy_(torch.randn(bank.pages.shape, generator=generator) * 0.3)
    bank.module_scales.copy_(torch.rand(bank.module_scales.shape, generator=generator) + 0.5)
    return bank


def make_cache(
    *, kv_heads: int, key_dim: int, value_dim: int, num_blocks: int, block_size: int,
    dtype: torch.dtype,
) -> KVCache:  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    cache = KVCache(
        AttentionGeometry(2, kv_heads, key_dim, value_dim),
        num_blocks=num_blocks,
        block_size=block_size,
        dtype=dtype,
        device=device(),
    )
    for tensor in cache.stacked:
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return cache
