"""Versions that a running process needs, whatever the store's policy says.

Each process that holds any has a file in `.holds` and keeps it locked; the kernel gives the lock
back when the process dies, and the next look clears the file away. Works among all processes that
use the same folder.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Collection
from pathlib import Path

from adapters.errors import AdapterError
from adapters.format.bounded_json import read_json_object
from adapters.names import AdapterRef, parse_ref

_MAX_BYTES = 1 << 20


class VersionHolds:
    """The holds in one folder. Every call expects the store's lock to be held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: tuple[Path, int] | None = None

    def replace(self, refs: Collection[AdapterRef]) -> None:
        """Hold these from now on, and nothing else. Raises `OSError`."""
        before, self._mine = self._mine, None
        if refs:
            self._mine = self._write(refs)
        if before is not None:
            before[0].unlink(missing_ok=True)
            os.close(before[1])

    def held(self) -> set[AdapterRef]:
        """What living processes hold; what dead ones left is cleared away. Raises `OSError`."""
        found: set[AdapterRef] = set()
        for path in self._files():
            if _is_locked(path):
                found |= _read(path)
            else:
                path.unlink(missing_ok=True)
        return found

    def _write(self, refs: Collection[AdapterRef]) -> tuple[Path, int]:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{secrets.token_hex(8)}.json"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        path.write_text(json.dumps({"versions": sorted(str(ref) for ref in refs)}))
        return path, descriptor

    def _files(self) -> list[Path]:
        try:
            return sorted(self._folder.iterdir())
        except FileNotFoundError:
            return []


def _is_locked(path: Path) -> bool:
    """Whether somebody holds the file's lock, this process included."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(path: Path) -> set[AdapterRef]:
    """The versions in a file; none in one that doesn't read, which nobody here writes."""
    try:
        document = read_json_object(path, max_bytes=_MAX_BYTES, max_depth=3)
        return {parse_ref(text) for text in document["versions"]}
    except (AdapterError, KeyError, TypeError):
        return set()
