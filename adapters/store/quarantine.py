"""Versions that can't be served, moved out of sight with the reason beside them.

DIR/.quarantine/<name>@<version>~<token>/reason.txt   why, in one or more lines
DIR/.quarantine/<name>@<version>~<token>/adapter/     the folder as it was found
"""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import (
    AdapterNotFoundError,
    InvalidNameError,
    ManifestError,
    StoreError,
    UnsoundError,
)
from adapters.format.folder_files import MANIFEST_FILE
from adapters.format.manifest import read_manifest
from adapters.names import AdapterRef, parse_ref
from adapters.store.durable_files import sync_path, write_synced
from adapters.store.layout import StoreLayout
from adapters.store.soundness import damage

REASON_FILE = "reason.txt"
_ADAPTER_FOLDER = "adapter"
_MAX_REASON_CHARS = 8192


@dataclass(frozen=True, slots=True)
class QuarantinedAdapter:
    """One version out of sight. `key` names it to `restore` and `discard`."""

    key: str
    ref: AdapterRef
    reason: str
    since_unix_seconds: int
    path: Path


class Quarantine:
    """The quarantine of one store. Reading takes no lock; the rest expects the store's lock."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout

    def all(self) -> tuple[QuarantinedAdapter, ...]:
        """Everything in it, by name and version, the oldest first."""
        found = sorted(self._found(), key=lambda q: (str(q.ref), q.since_unix_seconds, q.key))
        return tuple(found)

    def reason_of(self, ref: AdapterRef) -> str | None:
        """Why the version that `ref` names was put here last; None when it wasn't."""
        reasons = [q for q in self._found() if q.ref == ref]
        if not reasons:
            return None
        return max(reasons, key=lambda q: q.since_unix_seconds).reason

    def take(self, name: str, version: int, reason: str) -> None:
        """Move a version here."""
        entry = self._layout.quarantine / f"{name}@{version}~{secrets.token_hex(4)}"
        entry.mkdir(parents=True)
        write_synced(entry / REASON_FILE, reason[:_MAX_REASON_CHARS].rstrip() + "\n")
        sync_path(entry)
        folder = self._layout.version_folder(name, version)
        folder.rename(entry / _ADAPTER_FOLDER)
        sync_path(entry)
        sync_path(folder.parent)

    def restore(self, key: str) -> AdapterRef:
        """Move a version back to where it was.

        Raises `AdapterNotFoundError`, `StoreError` where there is a version again, and
        `UnsoundError` where its files aren't what was published. Reads every byte.
        """
        quarantined = self._get(key)
        ref = quarantined.ref
        assert ref.version is not None
        target = self._layout.version_folder(ref.name, ref.version)
        if target.exists():
            raise StoreError(f"there is a version {ref} again: import {quarantined.path} instead")
        if reason := damage(quarantined.path, _published_digest(quarantined.path)):
            raise UnsoundError(
                f"{ref} is still damaged: {reason}. Repair {quarantined.path} and try again, or "
                f"delete it (adapters quarantine rm {key})"
            )
        target.parent.mkdir(exist_ok=True)
        quarantined.path.rename(target)
        sync_path(target.parent)
        shutil.rmtree(quarantined.path.parent)
        return ref

    def discard(self, key: str) -> AdapterRef:
        """Delete a version for good. Raises `AdapterNotFoundError`."""
        quarantined = self._get(key)
        shutil.rmtree(quarantined.path.parent)
        return quarantined.ref

    def recover(self) -> None:
        """Clear away entries that a dead process began and whose adapter never came."""
        for entry in self._entries():
            if not (entry / _ADAPTER_FOLDER).is_dir():
                shutil.rmtree(entry, ignore_errors=True)

    def _get(self, key: str) -> QuarantinedAdapter:
        for quarantined in self._found():
            if quarantined.key == key:
                return quarantined
        keys = ", ".join(quarantined.key for quarantined in self.all()) or "nothing"
        raise AdapterNotFoundError(f"the quarantine has no {key!r}; there is: {keys}")

    def _entries(self) -> Sequence[Path]:
        try:
            return [entry for entry in self._layout.quarantine.iterdir() if entry.is_dir()]
        except OSError:
            return []

    def _found(self) -> Iterator[QuarantinedAdapter]:
        for entry in self._entries():
            label, tilde, _ = entry.name.partition("~")
            path = entry / _ADAPTER_FOLDER
            try:
                ref = parse_ref(label)
                if not tilde or ref.version is None or not path.is_dir():
                    continue
                reason = (entry / REASON_FILE).read_text(encoding="utf-8", errors="replace")
                since = int((entry / REASON_FILE).stat().st_mtime)
            except (InvalidNameError, OSError):
                continue
            yield QuarantinedAdapter(entry.name, ref, reason.strip(), since, path)


def _published_digest(folder: Path) -> str:
    """What the manifest says; "", which no files have, where it can't be read."""
    try:
        return read_manifest(folder / MANIFEST_FILE).digest
    except ManifestError:
        return ""
