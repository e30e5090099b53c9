"""Gives freed heap memory back to the system."""

import ctypes
import sys


def return_freed_memory() -> bool:
    """Let glibc unmap what was freed; returns whether it could.

    Loading a base frees many tensors of middling size between others that stay, and glibc keeps
    such holes for later: 430 MiB with the embedded base. Process-wide and slow (tens of
    milliseconds), so it is for the end of loading.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return False
    return bool(trim(0))
