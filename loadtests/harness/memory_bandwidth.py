"""How fast this machine reads memory: the roof over every step that streams its weights."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES_PER_THREAD = 256 << 20  # far more than any cache holds


def read_bandwidth(num_threads: int, *, rounds: int = 5) -> float:
    """Bytes per second that `num_threads` threads read together, each summing an array of its own.

    The best of `rounds`: whatever else the machine does only takes away. Uses 256 MiB a thread.
    """
    count = _BYTES_PER_THREAD // np.dtype(np.float64).itemsize
    arrays = [np.ones(count) for _ in range(num_threads)]
    best = 0.0
    with ThreadPoolExecutor(num_threads) as threads:
        for _ in range(rounds):
            start = time.perf_counter()
            for _total in threads.map(np.sum, arrays):
                pass
            seconds = time.perf_counter() - start
            best = max(best, num_threads * _BYTES_PER_THREAD / seconds)
    return best
