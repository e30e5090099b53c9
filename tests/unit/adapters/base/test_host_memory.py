"""Freed memory goes back to the system."""

import sys

import psutil
import pytest
import torch

from adapters.base.host_memory import return_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_holes_of_the_heap_are_unmapped() -> None:
    process = psutil.Process()
    # Below glibc's threshold for a mapping of its own; every hundredth stays.
    blocks = [torch.ones(24_000) for _ in range(3000)]
    kept = blocks[::100]
    blocks.clear()
    before = process.memory_info().rss
    assert return_freed_memory()
    assert before - process.memory_info().rss > 100 << 20
    assert all(block.sum() == 24_000 for block in kept)
