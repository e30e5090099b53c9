"""The local adapter store: named, versioned PEFT folders that appear and change atomically."""

import errno
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from adapters.digest import adapter_digest
from adapters.errors import AdapterNotFoundError, InspectionError, ManifestError, StoreError
from adapters.folder_files import MANIFEST_FILE
from adapters.inspection import inspect_adapter
from adapters.manifest import BaseLineage, Manifest, read_manifest
from adapters.names import AdapterRef, check_name
from adapters.store_layout import StoreLayout
from adapters.store_lock import exclusive_lock
from adapters.store_reader import StoredAdapter, StoreReader
from adapters.store_writer import StoreWriter

__all__ = ["AdapterStore", "StoredAdapter"]

_READ_ONLY_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)
_READ_ATTEMPTS = 5


class AdapterStore:
    """A store folder (layout: `adapters.store_layout`).

    Reading takes no lock and may happen in any number of threads and processes. Changes are
    serialised by a lock file; each leaves the old state or the new one, also under kill -9.
    """

    def __init__(self, root: Path) -> None:
        """Open `root`, making it when missing, and clear away what a dead process left.

        A store that can't be written can still be read. Raises `StoreError` when there is none
        and none can be made.
        """
        self._layout = StoreLayout(root.absolute())
        self._reader = StoreReader(self._layout)
        self._writer = StoreWriter(self._layout)
        try:
            self._layout.staging.mkdir(parents=True, exist_ok=True)
            # A writer that is at work holds the lock, and then nothing here is left over.
            with exclusive_lock(self._layout.lock, wait=False) as got:
                if got:
                    self._writer.recover()
        except OSError as error:
            if error.errno not in _READ_ONLY_ERRNOS or not root.is_dir():
                raise StoreError(f"{root} can't be opened as a store: {error.strerror}") from error

    @property
    def root(self) -> Path:
        """The store's folder, absolute."""
        return self._layout.root

    def names(self) -> tuple[str, ...]:
        """Every name that has a version, sorted; one that has only unaliased versions too."""
        return self._reader.names()

    def versions(self, name: str) -> tuple[int, ...]:
        """Every version of `name`, ascending; empty for an unknown name."""
        check_name(name)
        return self._reader.versions(name)

    def current_version(self, name: str) -> int:
        """The version that `name` alone means. Raises `AdapterNotFoundError` when it means none."""
        return self.get(AdapterRef(name)).version

    def get(self, ref: AdapterRef) -> StoredAdapter:
        """The version that `ref` names. Raises `AdapterNotFoundError`."""
        if ref.version is not None:
            stored = self._reader.version(ref.name, ref.version)
        else:
            # The alias may move on, and its old version go, between the two reads.
            for _ in range(_READ_ATTEMPTS):
                stored = self._reader.current(ref.name)
                if stored is not None:
                    break
        if stored is None:
            raise AdapterNotFoundError(self._not_found(ref))
        return stored

    def list(self) -> tuple[StoredAdapter, ...]:
        """The current version of every name, by name."""
        return self._reader.all_current()

    def publish(
        self, name: str, folder: Path, manifest: Manifest, *, set_alias: bool = True
    ) -> StoredAdapter:
        """Copy `folder` into the store as the next version of `name`.

        The manifest is written with this name and the digest of the copy. With `set_alias` the
        version and the moved name appear in the same moment; without, `name` keeps its meaning.
        Raises `InvalidNameError`; `InspectionError`, `TensorFileError` or `DocumentError` for a
        folder that isn't an adapter's; `StoreError` when the disk refuses.
        """
        check_name(name)
        named = manifest.model_copy(update={"name": name})
        with self._changing():
            version = self._writer.publish(name, folder, lambda _: named, set_alias=set_alias)
        return self.get(AdapterRef(name, version))

    def set_alias(self, name: str, version: int) -> None:
        """Make `name` mean `version`. Raises `AdapterNotFoundError`."""
        ref = AdapterRef(name, version)
        with self._changing():
            self.get(ref)
            self._writer.point(name, version)

    def remove(self, ref: AdapterRef) -> None:
        """Remove one version, or a name with all its versions when `ref` has none.

        Removing the only version removes the name. Raises `AdapterNotFoundError`, and `StoreError`
        for the version that the name means while there are others.
        """
        with self._changing():
            versions = self._reader.versions(ref.name)
            wanted = versions[-1:] if ref.version is None else (ref.version,)
            if not wanted or wanted[0] not in versions:
                raise AdapterNotFoundError(self._not_found(ref))
            if ref.version is None or versions == wanted:
                self._writer.remove_name(ref.name)
            elif self._reader.alias(ref.name).version == ref.version:
                other = [version for version in versions if version != ref.version][-1]
                raise StoreError(
                    f"{ref} is what the name {ref.name} means now: point it elsewhere first "
                    f"(adapters alias {ref.name} {other}), or remove {ref.name} with all versions"
                )
            else:
                self._writer.remove_version(ref.name, ref.version)

    def import_folder(
        self,
        name: str,
        folder: Path,
        *,
        base_modules: Mapping[str, tuple[int, int]] | None = None,
        base: BaseLineage | None = None,
        source: str | None = None,
    ) -> StoredAdapter:
        """Inspect a PEFT folder and publish it as the current version of `name`.

        A manifest in the folder is kept but for its name, parent, source and time, and must agree
        with the weights; without one, a manifest is made. `base_modules` and `base` are the base
        that the adapter is to be served on. Raises as `inspect_adapter` and `publish` do, and
        `ManifestError` when the folder was changed after its manifest was written.
        """
        check_name(name)
        inspect_adapter(folder, base_modules)
        given = _given_manifest(folder, base)
        label = source if source is not None else str(folder)

        def describe(staged: Path) -> Manifest:
            # The copy is what is published, so the copy is what must pass.
            inspection = inspect_adapter(staged, base_modules)
            current = self._reader.current(name)
            facts = {
                "name": name,
                "created_unix_seconds": int(time.time()),
                "method": inspection.method,
                "rank": inspection.rank,
                "parent": current.label if current is not None else None,
                "source": label,
            }
            if given is not None:
                _check_digest(given, staged, folder)
                return given.model_copy(update=facts)
            return Manifest.model_validate({**facts, "base": base})

        with self._changing():
            version = self._writer.publish(name, folder, describe, set_alias=True)
        return self.get(AdapterRef(name, version))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the store alone, in a clean state."""
        try:
            with exclusive_lock(self._layout.lock):
                self._writer.recover()
                yield
        except OSError as error:
            raise StoreError(f"the store {self.root} can't be changed: {error}") from error

    def _not_found(self, ref: AdapterRef) -> str:
        versions = self._reader.versions(ref.name)
        if not versions:
            close = get_close_matches(ref.name, self.names(), n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            return f"the store {self.root} has no adapter {ref.name}{hint}"
        there = ", ".join(str(version) for version in versions[-10:])
        if ref.version is not None:
            return f"adapter {ref.name} has no version {ref.version}; there is: {there}"
        return (
            f"the name {ref.name} points at no version: name one (there is: {there}), or set it "
            f"with `adapters alias {ref.name} {versions[-1]}`"
        )


def _given_manifest(folder: Path, base: BaseLineage | None) -> Manifest | None:
    """The manifest that came with a folder, if one did. Raises for another base than `base`."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    made_for = manifest.base
    if base is not None and made_for is not None and made_for.digest != base.digest:
        raise InspectionError(
            f"the adapter in {folder} can't be used:",
            [
                f"it was trained on the base {made_for.reference} ({made_for.digest}), and this "
                f"base is {base.reference} ({base.digest})"
            ],
        )
    return manifest


def _check_digest(manifest: Manifest, staged: Path, folder: Path) -> None:
    digest = adapter_digest(staged)
    if manifest.digest and manifest.digest != digest:
        raise ManifestError(
            f"{folder / MANIFEST_FILE} says {manifest.digest}, but the files are {digest}: they "
            "were changed after it was written. Delete the manifest to import them as they are"
        )
