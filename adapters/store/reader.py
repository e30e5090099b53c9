"""Reading a store, at any time and without a lock: every state that a reader can meet is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import ManifestError
from adapters.format.folder_files import MANIFEST_FILE, WEIGHTS_FILE
from adapters.format.manifest import read_manifest
from adapters.names import AdapterRef
from adapters.store.alias import Alias
from adapters.store.file_stamp import stamp_of
from adapters.store.index import Aliases, StoreIndex, Versions
from adapters.store.layout import ALIAS_FILE, StoreLayout
from adapters.store.stored_adapter import StoredAdapter

_LISTING_ATTEMPTS = 5

_WORTH_AN_INDEX = 32
"""Files that a listing read anew: so many and the next process shall have them from the index."""


class StoreReader:
    """What a store holds now. Keeps parsed files until they change; threads may share it."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        # A thousand names are looked up in one listing: joining strings is what keeps it fast.
        self._root = str(layout.root)
        self._aliases: Aliases = {}
        self._versions: Versions = {}
        self._has_index = False
        self.num_files_parsed = 0
        self.marked: dict[tuple[str, int], str] = {}
        """Versions that are passed over, and why: unsound ones in a store that can't be written."""

    def alias(self, name: str) -> Alias:
        """What `name` points at; nothing when there is no such name."""
        stamp = stamp_of(f"{self._root}/{name}/{ALIAS_FILE}")
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

    def named(self, ref: AdapterRef) -> StoredAdapter | None:
        """The version that `ref` names, or None."""
        return (
            self.current(ref.name) if ref.version is None else self.version(ref.name, ref.version)
        )

    def current(self, name: str) -> StoredAdapter | None:
        """The version that `name` alone means."""
        version = self.alias(name).version
        for _ in range(_LISTING_ATTEMPTS):
            found = None if version is None else self._parsed(name, version)
            # The name may move on, and its old version go, between the two looks.
            if found is not None or (again := self.alias(name).version) == version:
                break
            version = again
        return found

    def targets(self, name: str) -> tuple[tuple[StoredAdapter, float], ...]:
        """The readable versions that `name` points at, with their weights."""
        wanted = self.alias(name).targets
        for _ in range(_LISTING_ATTEMPTS):
            parsed = [(self._parsed(name, version), weight) for version, weight in wanted]
            found = tuple((stored, weight) for stored, weight in parsed if stored is not None)
            if len(found) == len(wanted) or (again := self.alias(name).targets) == wanted:
                break
            wanted = again
        return found

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
        with self._by_index() as folders:
            return tuple(
                name for name in folders if self.current(name) is not None or self.versions(name)
            )

    def all_current(self) -> tuple[StoredAdapter, ...]:
        """The current version of every name that points at one, by name."""
        with self._by_index() as folders:
            found = (self.current(name) for name in folders)
            return tuple(stored for stored in found if stored is not None)

    def all_targets(self) -> dict[str, tuple[tuple[StoredAdapter, float], ...]]:
        """Name -> the readable versions that it points at.

        Of every name that has a version, or whose alias says so.
        """
        with self._by_index() as folders:
            found = {name: self.targets(name) for name in folders}
            return {name: targets for name, targets in found.items() if targets or self._is(name)}

    def astray(self) -> tuple[str, ...]:
        """Every name whose alias points at something that can't be read, or at nothing."""
        with self._by_index() as folders:
            return tuple(
                name
                for name in folders
                if not (found := self.targets(name)) or len(found) < len(self.alias(name).targets)
                if self._is(name)
            )

    def _is(self, name: str) -> bool:
        return bool(self.alias(name).targets or self.versions(name))

    @contextmanager
    def _by_index(self) -> Iterator[list[str]]:
        """The name folders, for who looks at all: with what others read before, if it still holds.

        Afterwards what had to be read is kept for others, where it is worth it.
        """
        if not self._has_index:
            self._has_index = True
            index = StoreIndex.load(self._layout)
            self._aliases = index.aliases | self._aliases
            self._versions = index.versions | self._versions
        before = self.num_files_parsed
        folders = self._layout.name_folders()
        yield folders
        if self.num_files_parsed - before >= _WORTH_AN_INDEX:
            there = set(folders)
            StoreIndex(
                {name: kept for name, kept in self._aliases.copy().items() if name in there},
                {key: kept for key, kept in self._versions.copy().items() if key[0] in there},
            ).save(self._layout)

    def _parsed(self, name: str, version: int) -> StoredAdapter | None:
        stamp = stamp_of(f"{self._root}/{name}/{version}/{MANIFEST_FILE}")
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


def _read_version(name: str, version: int, folder: Path) -> StoredAdapter | None:
    try:
        manifest = read_manifest(folder / MANIFEST_FILE)
        size_bytes = (folder / WEIGHTS_FILE).stat().st_size
    except (ManifestError, OSError):
        return None
    if not manifest.digest:
        return None
    return StoredAdapter.of(name, version, folder, size_bytes, manifest)
