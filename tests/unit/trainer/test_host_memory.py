"""Holes in glibc's heap go back to the system."""

import platform

import psutil
import pytest

from trainer.host_memory import release_free_memory

BLOCK_BYTES, NUM_BLOCKS, KEPT_EVERY = 64_000, 2000, 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc to tell")
def test_resident_memory_falls_though_blocks_among_the_freed_ones_stay() -> None:
    process = psutil.Process()
    blocks = [b"x" * BLOCK_BYTES for _ in range(NUM_BLOCKS)]  # each below the mapping threshold
    full = process.memory_info().rss
    kept = blocks[::KEPT_EVERY]
    blocks.clear()
    assert release_free_memory()
    assert process.memory_info().rss < full - 0.8 * BLOCK_BYTES * NUM_BLOCKS
    assert len(kept) == NUM_BLOCKS // KEPT_EVERY
