"""Memory that the C allocator and oneDNN keep for later, unless they are told not to."""

import ctypes
import os
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
MAPPED_FROM_BYTES = 4 * 1024 * 1024

PRIMITIVE_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's own, and that of ideep, through which torch calls it."""

PRIMITIVES_KEPT = 64
"""Products of one forward and backward have some 30 shapes, with packed rows, which attend one by
one, more: with 32 kept eight packed rows took 1.2 times as long, with 64 no longer than with 1024.
"""


def save_host_memory() -> None:
    """What a command that trains does before its first tensor: `map_large_blocks`, and few
    primitives kept. Process-wide.
    """
    map_large_blocks()
    keep_few_primitives()


def keep_few_primitives() -> None:
    """Let oneDNN keep what it made for the last few shapes; by itself it keeps it for 1024.

    Each takes 0.6 MB, in either of two caches, and the rows of training have ever new lengths: 87
    steps came to hold 1 GB of them. To make one again takes a quarter of a millisecond. Read from
    the environment when torch first multiplies; what the user set there stays.
    """
    for variable in PRIMITIVE_CACHES:
        os.environ.setdefault(variable, str(PRIMITIVES_KEPT))


def return_freed_memory() -> bool:
    """Give the holes of the heap back to the system; returns whether anything was.

    Loading a base frees many tensors of middling size between others that stay: 430 MiB with the
    embedded one. Training steps of different lengths leave holes that later ones don't fit.
    Process-wide, and what is used again afterwards costs fresh pages, so it is for the end of
    loading and every few steps.
    """
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def map_large_blocks() -> bool:
    """Let glibc map blocks from 4 MB on their own; returns whether there is a glibc to tell.

    By itself glibc raises its threshold to what was freed last, up to 32 MB, and keeps what step
    after step frees in a heap full of holes. Mapping everything is no better: at 64 KB a training
    step spent much of its time in fresh pages (docs/experiments.md). Process-wide, so only a
    command line calls it.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    told = mallopt(_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
    return bool(told and mallopt(_TRIM_THRESHOLD, 2 * MAPPED_FROM_BYTES))


def _glibc(name: str) -> Any:
    """A function of glibc's own, or None with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
