"""Reading a store, at any time and without a lock: every state that a reader can meet is whole."""

import os
from dataclasses import dataclass
from pathlib import Path

from adapters.alias import Alias
from adapters.errors import ManifestError
from adapters.folder_files import MANIFEST_FILE, WEIGHTS_FILE
from adapters.manifest import Manifest, read_manifest
from adapters.store_layout import ALIAS_FILE, StoreLayout

_LISTING_ATTEMPTS = 5

_Stamp = tuple[int, int]
"""(mtime in ns, inode): tells a replaced file from the one that was read."""


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """One published version. Its folder doesn't change until it is removed.

    `size_bytes` is the weights file's; `rank` and `digest` are the manifest's.
    """

    name: str
    version: int
    digest: str
    rank: int
    path: Path
    manifest: Manifest
    size_bytes: int

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


class StoreReader:
    """What a store holds now. Keeps parsed files until they change; threads may share it."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        # A thousand names are looked up in one listing: joining strings is what keeps it fast.
        self._root = str(layout.root)
        self._aliases: dict[str, tuple[_Stamp, Alias]] = {}
        self._versions: dict[tuple[str, int], tuple[_Stamp, StoredAdapter | None]] = {}
        self.num_files_parsed = 0
        self.marked: dict[tuple[str, int], str] = {}
        """Versions that are passed over, and why: unsound ones in a store that can't be written."""

    def alias(self, name: str) -> Alias:
        """What `name` points at; nothing when there is no such name."""
        stamp = _stamp(f"{self._root}/{name}/{ALIAS_FILE}")
        if stamp is None:
            self._aliases.pop(name, None)
            return Alias()
        kept = self._aliases.get(name)
        if kept is None or kept[0] != stamp:
            # A file replaced after the stat is read as the newer one and read again next time.
            kept = self._aliases[name] = (stamp, self._layout.read_alias(name))
            self.num_files_parsed += 1
        return kept[1]

    def version(self, name: str, version: int) -> StoredAdapter | None:
        """One version, or None where readers see none: missing, unfinished or without manifest."""
        if self._layout.is_unfinished(name, version, self.alias(name)):
            return None
        return self._parsed(name, version)

    def current(self, name: str) -> StoredAdapter | None:
        """The version that `name` alone means."""
        version = self.alias(name).version
        return None if version is None else self._parsed(name, version)

    def targets(self, name: str) -> tuple[tuple[StoredAdapter, float], ...]:
        """The readable versions that `name` points at, with their weights."""
        found = [(self._parsed(name, v), weight) for v, weight in self.alias(name).targets]
        return tuple((stored, weight) for stored, weight in found if stored is not None)

    def versions(self, name: str) -> tuple[int, ...]:
        """Every version that readers see, ascending."""
        numbers = self._layout.version_folders(name)
        for _ in range(_LISTING_ATTEMPTS):
            found = tuple(n for n in numbers if self.version(name, n) is not None)
            # One may be published, and the one before it go, between the listing and the look.
            again = self._layout.version_folders(name)
            if again == numbers:
                break
            numbers = again
        return found

    def names(self) -> tuple[str, ...]:
        """Every name that has a version, sorted."""
        return tuple(
            name
            for name in self._layout.name_folders()
            if self.current(name) is not None or self.versions(name)
        )

    def all_current(self) -> tuple[StoredAdapter, ...]:
        """The current version of every name that points at one, by name."""
        found = (self.current(name) for name in self._layout.name_folders())
        return tuple(stored for stored in found if stored is not None)

    def all_targets(self) -> dict[str, tuple[tuple[StoredAdapter, float], ...]]:
        """Name -> what it points at, of every name that points at a readable version."""
        found = {name: self.targets(name) for name in self._layout.name_folders()}
        return {name: targets for name, targets in found.items() if targets}

    def _parsed(self, name: str, version: int) -> StoredAdapter | None:
        stamp = _stamp(f"{self._root}/{name}/{version}/{MANIFEST_FILE}")
        if (name, version) in self.marked:
            return None
        if stamp is None:
            self._versions.pop((name, version), None)
            return None
        kept = self._versions.get((name, version))
        if kept is None or kept[0] != stamp:
            folder = self._layout.version_folder(name, version)
            kept = (stamp, _read_version(name, version, folder))
            self._versions[(name, version)] = kept
            self.num_files_parsed += 1
        return kept[1]


def _stamp(path: str) -> _Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - see StoreReader.__init__
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _read_version(name: str, version: int, folder: Path) -> StoredAdapter | None:
    try:
        manifest = read_manifest(folder / MANIFEST_FILE)
        size_bytes = (folder / WEIGHTS_FILE).stat().st_size
    except (ManifestError, OSError):
        return None
    if not manifest.digest:
        return None
    return StoredAdapter(
        name, version, manifest.digest, manifest.rank, folder, manifest, size_bytes
    )
