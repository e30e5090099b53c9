"""Tells a file that was changed or replaced from the one that was read."""

import os

Stamp = tuple[int, int, int, int]
"""(mtime in ns, ctime in ns, inode, size). Nobody can set a ctime, so a copy has another stamp."""


def stamp_of(path: str) -> Stamp | None:
    """The stamp of what `path` leads to; None when there is nothing that can be read."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a thousand at a time: no Path for each
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
