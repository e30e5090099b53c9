"""Changing a store so that a crash at any moment leaves the old state or the new one.

Every function here expects its caller to hold the store's lock.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from adapters.errors import InspectionError
from adapters.format.digest import adapter_digest
from adapters.format.folder_files import MANIFEST_FILE, list_folder
from adapters.format.manifest import Manifest
from adapters.names import AdapterRef, parse_ref
from adapters.seal import sealed
from adapters.store.alias import Alias, canary, single
from adapters.store.durable_files import (
    copy_synced,
    replace_synced,
    sync_path,
    sync_tree,
    write_synced,
)
from adapters.store.layout import PUBLISHING_MARK, StoreLayout

_INTENT = "publish-"
"""Names a file in staging: `publish-sql@3` while version 3 is made what `sql` means."""


class StoreWriter:
    """The moves that a store is changed by. Holds no state."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout

    def recover(self) -> None:
        """Undo or finish whatever a dead process left: staging, unfinished publishes."""
        self._layout.staging.mkdir(exist_ok=True)
        leftovers = list(self._layout.staging.iterdir())
        for leftover in leftovers:
            if leftover.name.startswith(_INTENT):
                self._settle(parse_ref(leftover.name.removeprefix(_INTENT)))
        for leftover in leftovers:
            _delete(leftover)

    def publish(
        self,
        name: str,
        fill: Callable[[Path], None],
        describe: Callable[[Path], Manifest],
        *,
        set_alias: bool,
    ) -> int:
        """Make the next version of `name`; returns its number.

        `fill` makes the folder that it is given, with the version's files, flushed to the disk.
        `describe` is given the finished folder and returns its manifest, whose digest and seal are
        filled in here. Raises what they raise, what the digest raises for malformed files, and
        `OSError`.
        """
        staged = self._staging_path()
        try:
            fill(staged)
            manifest = describe(staged).model_copy(update={"digest": adapter_digest(staged)})
            manifest = sealed(manifest, list_folder(staged).files)
            (staged / MANIFEST_FILE).unlink(missing_ok=True)
            write_synced(staged / MANIFEST_FILE, manifest.to_json())
            if set_alias:
                write_synced(staged / PUBLISHING_MARK, "")
            sync_path(staged)
            return self._commit(name, staged, set_alias=set_alias)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def place(self, name: str, version: int, fill: Callable[[Path], None]) -> None:
        """Put a finished version where one may be already; `fill` writes its files into a folder.

        Raises what `fill` raises, and `OSError`.
        """
        staged = self._staging_path()
        try:
            staged.mkdir()
            fill(staged)
            sync_tree(staged)
            target = self._layout.version_folder(name, version)
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                self._discard(target)
            staged.rename(target)
            sync_path(target.parent)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def set_alias(self, name: str, alias: Alias) -> None:
        """Replace what `name` points at."""
        self._write_alias(name, alias)

    def write_file(self, path: Path, text: str) -> None:
        """Replace a file of the store whole or not at all."""
        replace_synced(path, text, self._layout.staging)

    def point(self, name: str, weights: Mapping[int, float]) -> None:
        """Make `name` mean these versions, by weight. Raises `InvalidAliasError`."""
        highest = max([self._layout.read_alias(name).highest, *weights])
        self._write_alias(name, canary(weights, highest))

    def remove_version(self, name: str, version: int) -> None:
        """Take one version away; its number isn't used again while the name exists."""
        alias = self._layout.read_alias(name)
        if alias.highest < version:
            self._write_alias(name, replace(alias, highest=version))
        self._discard(self._layout.version_folder(name, version))

    def remove_name(self, name: str) -> None:
        """Take a name with all its versions away, in one move."""
        self._discard(self._layout.name_folder(name))

    def _settle(self, ref: AdapterRef) -> None:
        """A publish that also moves the name was cut off: it counts if the name had moved."""
        assert ref.version is not None
        mark = self._layout.version_folder(ref.name, ref.version) / PUBLISHING_MARK
        if not mark.exists():
            return
        if ref.version in self._layout.read_alias(ref.name).versions:
            mark.unlink()
        else:
            self._discard(mark.parent)

    def _commit(self, name: str, staged: Path, *, set_alias: bool) -> int:
        alias = self._layout.read_alias(name)
        version = max([alias.highest, *self._layout.version_folders(name)]) + 1
        folder = self._layout.name_folder(name)
        if not folder.is_dir():
            folder.mkdir()
            sync_path(self._layout.root)
        target = self._layout.version_folder(name, version)
        # Whoever opens the store after a crash finds by this where to look.
        intent = self._layout.staging / f"{_INTENT}{AdapterRef(name, version)}"
        if set_alias:
            intent.touch()
            sync_path(self._layout.staging)
        staged.rename(target)
        sync_path(folder)
        if set_alias:
            self._write_alias(name, single(version, version))
            (target / PUBLISHING_MARK).unlink()
            intent.unlink()
        return version

    def _write_alias(self, name: str, alias: Alias) -> None:
        replace_synced(self._layout.alias_file(name), alias.to_json(), self._layout.staging)

    def _staging_path(self) -> Path:
        return self._layout.staging / secrets.token_hex(12)

    def _discard(self, folder: Path) -> None:
        # Gone in one move; the deletion, which takes many, happens where nobody looks.
        aside = self._staging_path()
        folder.rename(aside)
        sync_path(folder.parent)
        _delete(aside)


def copy_folder(source: Path) -> Callable[[Path], None]:
    """A filler for `StoreWriter.publish`: the plain files of `source`, less its manifest.

    Raises `InspectionError` now for files that may not be in a store.
    """
    title = f"the adapter in {source} can't be used:"
    try:
        listing = list_folder(source)
    except OSError as error:
        raise InspectionError(title, [f"the folder can't be read: {error.strerror}"]) from error
    if listing.problems:
        raise InspectionError(title, listing.problems)
    files = {name: path for name, path in listing.files.items() if name != MANIFEST_FILE}
    return lambda staged: copy_synced(files, staged)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        # An index is written aside without the lock: it may have been moved into place just now.
        path.unlink(missing_ok=True)
