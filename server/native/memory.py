"""Memory that the kernels stream: on huge pages where the system grants them.

A hardware prefetcher stops at a page's end, and a small page ends after 64 cache lines; huge pages
gave 5 % at one row. Matrices smaller than a huge page share one.
"""

import ctypes
from threading import Lock

import torch
from torch import Tensor

_HUGE_PAGE_BYTES = 2 << 20
_CHUNK_BYTES = 32 << 20
_ALIGNMENT_BYTES = 64
_MADV_HUGEPAGE = 14  # Linux, <asm-generic/mman-common.h>


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class HugePageArena:
    """Hands out zeroed, cache-line aligned tensors cut from large chunks.

    A chunk is freed when every tensor cut from it is gone: for what lives as long as the model.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._chunk: Tensor | None = None
        self._used_bytes = 0
        self._libc = ctypes.CDLL(None)

    def zeros(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """A flat tensor of `num_elements` zeros."""
        size = num_elements * torch.empty((), dtype=dtype).element_size()
        needed = _round_up(max(size, 1), _ALIGNMENT_BYTES)
        with self._lock:
            if needed > _CHUNK_BYTES // 2:
                return self._new_chunk(needed)[:size].view(dtype)
            if self._chunk is None or self._used_bytes + needed > _CHUNK_BYTES:
                self._chunk = self._new_chunk(_CHUNK_BYTES)
                self._used_bytes = 0
            begin = self._used_bytes
            self._used_bytes += needed
            return self._chunk[begin : begin + size].view(dtype)

    def _new_chunk(self, size_bytes: int) -> Tensor:
        rounded = _round_up(size_bytes, _HUGE_PAGE_BYTES)
        raw = torch.empty(rounded + _HUGE_PAGE_BYTES, dtype=torch.uint8)
        offset = -raw.data_ptr() % _HUGE_PAGE_BYTES
        chunk = raw[offset : offset + rounded]
        # Advice only: where it is refused, ordinary pages serve as well, a little slower.
        self._libc.madvise(
            ctypes.c_void_p(chunk.data_ptr()), ctypes.c_size_t(rounded), _MADV_HUGEPAGE
        )
        return chunk.zero_()
