"""Files that survive a crash whole: written, flushed to the disk, then moved into place."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

_COPY_BYTES = 1 << 20


def sync_path(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder with all that is in it."""
    for directory, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_path(Path(directory, name))
        sync_path(Path(directory))


def write_synced(path: Path, text: str) -> None:
    """Write a new file and flush it; its directory entry is the caller's to flush."""
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, text: str, staging: Path) -> None:
    """Replace `path` whole or not at all; it is written aside in `staging`, on the same disk."""
    aside = staging / f"{path.name}.{secrets.token_hex(8)}"
    try:
        write_synced(aside, text)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_path(path.parent)


def copy_synced(files: Mapping[str, Path], target: Path) -> None:
    """Copy files (relative path -> source) into the new folder `target` and flush all of it.

    Sources are opened without following links: what was listed as a plain file is read as one.
    """
    target.mkdir()
    for relative, source in files.items():
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as reader, copy.open("xb") as writer:
            shutil.copyfileobj(reader, writer, _COPY_BYTES)
            writer.flush()
            os.fsync(writer.fileno())
    for directory, _, _ in os.walk(target, topdown=False):
        sync_path(Path(directory))
