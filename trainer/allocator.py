"""Lets the C library keep freed memory for the next step."""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to serve large tensors from its heap, and not to give that back.

    Otherwise each activation of some megabytes is mapped, zeroed by the kernel and unmapped again
    at every step: on a virtual machine that was a third of the time of a CPU training step.
    Process-wide; true if the C library took it (only glibc has these settings).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    kept = mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
    unmapped = mallopt(_M_MMAP_MAX, 0)
    return bool(kept and unmapped)
