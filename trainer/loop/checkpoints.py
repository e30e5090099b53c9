"""Checkpoints on disk: whole or not at all, checked before they are used.

Each is a folder `step-00000120` whose `manifest.json` names its files with their digests. It is
written under a name that is never read, synced to the disk, manifest last, and renamed. A process
that is killed in the middle leaves a partial folder, which the next write removes.
"""

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import CheckpointError

MANIFEST = "manifest.json"
_PREFIX = "step-"
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One whole checkpoint."""

    path: Path
    step: int


class CheckpointWriter:
    """Fills one checkpoint; only `Checkpoints.write` makes one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, Any]] = {}

    def add(self, name: str, save: Callable[[Any], None]) -> None:
        """Let `save` write the binary file `name`; afterwards the disk has it. Raises `OSError`."""
        path = self._folder / name
        with path.open("wb") as file:
            hashing = _HashingFile(file)
            save(hashing)
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = {"bytes": hashing.num_bytes, "sha256": hashing.digest}

    def link(self, name: str, source: Path) -> None:
        """Take over the file `source`, which is never changed in place, without copying it."""
        target = self._folder / name
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, target)
        self._files[name] = {"bytes": target.stat().st_size, "sha256": _digest(target)}

    def finish(self, step: int) -> None:
        """Write the manifest: from here on the checkpoint is whole."""
        text = json.dumps({"step": step, "files": self._files}, indent=2) + "\n"
        write_synced(self._folder / MANIFEST, text.encode())


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int) -> None:
        assert keep >= 1
        self._folder = folder
        self._keep = keep

    def write(self, step: int, fill: Callable[[CheckpointWriter], None]) -> Checkpoint:
        """Write the checkpoint of `step`, then remove all but the newest `keep`.

        Raises `CheckpointError` when the disk refuses it; what was there before is untouched then.
        """
        partial = self._folder / f"{_PARTIAL}{step:08d}"
        final = self._folder / f"{_PREFIX}{step:08d}"
        with self._explained(step, partial):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_partial()
            partial.mkdir()
            writer = CheckpointWriter(partial)
            fill(writer)
            writer.finish(step)
            sync_folder(partial)
            if final.exists():  # left by a run that was killed after this step
                shutil.rmtree(final)
            partial.rename(final)
            sync_folder(self._folder)
        for path in self._folders()[: -self._keep]:
            shutil.rmtree(path)
        return Checkpoint(final, step)

    def newest(self, skipped: Callable[[str], None] = lambda reason: None) -> Checkpoint | None:
        """The newest checkpoint whose every file is as it was written; None when there is none.

        `skipped` is told about each that isn't whole.
        """
        for path in reversed(self._folders()):
            problem = _problem(path)
            if problem is None:
                return Checkpoint(path, int(path.name.removeprefix(_PREFIX)))
            skipped(f"{path.name} is not whole ({problem}) and is passed over")
        return None

    def _folders(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._folder.glob(f"{_PREFIX}*"))

    def _remove_partial(self) -> None:
        for path in self._folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path)

    @contextmanager
    def _explained(self, step: int, partial: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            last = self.newest()
            kept = "there is none before it" if last is None else f"step {last.step} is kept"
            remedy = "free some space" if is_disk_full(error) else "make the folder writable"
            raise CheckpointError(
                f"the checkpoint of step {step} can't be written to {self._folder}: "
                f"{error.strerror or error}; {kept}. Nothing was published. To go on: {remedy}, "
                "then `trainer resume` this run folder"
            ) from error


def is_disk_full(error: OSError) -> bool:
    """No space left on the device, or none left of a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` a new content; a reader or a crash sees the old one or the new one."""
    beside = path.with_name(f".{path.name}.new")
    write_synced(beside, content)
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows the names in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in document["files"].items():
            path = folder / name
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
            if _digest(path) != expected["sha256"]:
                return f"{name} has other bytes than were written"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{MANIFEST} can't be read: {error}"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _HashingFile(io.BufferedIOBase):
    """Writes through to a file and hashes what goes by."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self._sha = hashlib.sha256()
        self.num_bytes = 0

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._sha.update(content)
        self.num_bytes += len(content)
        return self._file.write(content)
