"""Tells a lack of memory from other failures, whichever library reports it."""

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once would have gone well.

    torch raises its `OutOfMemoryError` on a GPU and, on a CPU, a `RuntimeError` of the allocator.
    """
    if isinstance(error, MemoryError):
        return True
    if any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in _SIGNS)
