"""The local adapter store: named, versioned PEFT folders that appear and change atomically."""

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import (
    AdapterNotFoundError,
    ArchiveError,
    StoreError,
    UnsoundError,
)
from adapters.format.manifest import BaseLineage, Manifest
from adapters.names import AdapterRef, check_name
from adapters.store.alias import Alias
from adapters.store.keep_policy import KeepPolicy
from adapters.store.layout import StoreLayout
from adapters.store.lock import exclusive_lock
from adapters.store.quarantine import Quarantine, QuarantinedAdapter
from adapters.store.reader import StoreReader
from adapters.store.retention import Retention
from adapters.store.soundness import Sweeper, damage
from adapters.store.stored_adapter import StoredAdapter
from adapters.store.stray_name import StrayName, Strays
from adapters.store.transfer.archive import extract_archive, write_archive
from adapters.store.transfer.importing import ImportOrder
from adapters.store.writer import StoreWriter, copy_folder
from adapters.template_check import BaseTemplate
from adapters.template_permissions import TemplatePermissions

__all__ = ["AdapterStore", "StoredAdapter"]

_READ_ONLY_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM)
SETTLE_SECONDS = 60.0
"""How long a folder must rest before it counts as what its copier meant it to be."""

Describe = Callable[[Path, str | None], Manifest]
"""The manifest of a staged folder, whose parent is this `name@version`."""


class AdapterStore:
    """A store folder (layout: `adapters.store.layout`).

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
        self._quarantine = Quarantine(self._layout)
        self._strays = Strays(self._layout, self._reader, self._quarantine)
        self._sweeper = Sweeper(self._layout)
        self._templates = TemplatePermissions(self._layout)
        self._retention = Retention(self._layout, self._reader, self._writer)
        try:
            self._layout.staging.mkdir(parents=True, exist_ok=True)
            # A writer that is at work holds the lock, and then nothing here is left over.
            with exclusive_lock(self._layout.lock, wait=False) as got:
                if got:
                    self._recover()
        except OSError as error:
            if error.errno not in _READ_ONLY_ERRNOS or not root.is_dir():
                raise StoreError(f"{root} can't be opened as a store: {error.strerror}") from error

    def pull(self) -> None:
        """Bring in what changed elsewhere; a local store has nothing to bring."""

    @property
    def reference(self) -> str:
        """What `adapters.store.remote_store.open_store` opens this store by."""
        return str(self.root)

    @property
    def root(self) -> Path:
        """The store's folder, absolute."""
        return self._layout.root

    @property
    def num_files_parsed(self) -> int:
        """How many alias and manifest files were read so far; unchanged ones are read once."""
        return self._reader.num_files_parsed

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
        stored = self._reader.named(ref)
        if stored is None:
            raise AdapterNotFoundError(self._strays.not_found(ref))
        return stored

    def targets_by_name(self) -> dict[str, tuple[tuple[StoredAdapter, float], ...]]:
        """What every name points at: its readable versions, with their weights.

        A name that points at none of them, and has versions or should mean one, is there too.
        """
        return self._reader.all_targets()

    def name_in(self, path: str) -> str | None:
        """The name that a changed path belongs to, or None; what `watchfiles` reports."""
        return self._layout.name_in(path)

    def list(self) -> tuple[StoredAdapter, ...]:
        """The current version of every name, by name."""
        return self._reader.all_current()

    def stray(self, name: str) -> StrayName | None:
        """How `name` doesn't mean what its alias says; None when it does, or isn't there."""
        return self._strays.of(name)

    def strays(self) -> tuple[StrayName, ...]:
        """Every name that doesn't mean what its alias says, by name."""
        return self._strays.all()

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
        return self._publish(name, copy_folder(folder), lambda *_: named, set_alias=set_alias)

    def alias(self, name: str) -> Alias:
        """What `name` points at; nothing when there is no such name."""
        check_name(name)
        return self._reader.alias(name)

    def targets(self, name: str) -> tuple[tuple[StoredAdapter, float], ...]:
        """The readable versions that `name` points at, with their weights; ascending."""
        check_name(name)
        return self._reader.targets(name)

    def set_alias(self, name: str, target: int | Mapping[int, float]) -> None:
        """Make `name` mean one version, or a canary: several versions by weight.

        Reads every byte of them. Raises `AdapterNotFoundError`, `UnsoundError` or
        `InvalidAliasError`.
        """
        weights = {target: 1.0} if isinstance(target, int) else target
        with self._changing():
            for version in weights:
                self._check_sound(AdapterRef(name, version))
            self._writer.point(name, weights)

    def remove(self, ref: AdapterRef) -> None:
        """Remove one version, or a name with all its versions when `ref` has none.

        Removing the only version removes the name. Raises `AdapterNotFoundError`, and
        `AdapterInUseError` for the version that the name means while there are others.
        """
        with self._changing():
            versions = self._reader.versions(ref.name)
            if not versions or ref.version not in (None, *versions):
                raise AdapterNotFoundError(self._strays.not_found(ref))
            self._retention.remove(ref)

    def import_folder(
        self,
        name: str,
        folder: Path,
        *,
        base_modules: Mapping[str, tuple[int, int]] | None = None,
        base: BaseLineage | None = None,
        base_template: BaseTemplate | None = None,
        allow_template: bool = False,
        source: str | None = None,
        set_alias: bool = True,
    ) -> StoredAdapter:
        """Inspect a PEFT folder and publish it as the current version of `name`.

        Without `set_alias` it is only staged: `name` keeps its meaning.

        A manifest in the folder is kept but for its name, parent, source and time, and must agree
        with the weights; without one, a manifest is made. `base_modules`, `base` and
        `base_template` are the base that the adapter is to be served on; a template that isn't that
        one's is refused, unless the operator's `allow_template` lets it be used. Raises as
        `inspect_adapter` and `publish` do, and `ManifestError` when the folder was changed after
        its manifest was written.
        """
        check_name(name)
        label = source if source is not None else str(folder)
        order = ImportOrder(name, label, base_modules, base, base_template, allow_template)
        order.check_source(folder)
        return self._import(order, copy_folder(folder), set_alias, came_with=folder)

    def import_archive(
        self,
        name: str,
        archive: Path,
        *,
        base_modules: Mapping[str, tuple[int, int]] | None = None,
        base: BaseLineage | None = None,
        set_alias: bool = True,
        base_template: BaseTemplate | None = None,
        allow_template: bool = False,
    ) -> StoredAdapter:
        """Publish what `export_archive` wrote, as `import_folder` does a folder.

        Raises `ArchiveError` too, for a file that isn't such an archive.
        """
        check_name(name)
        if not archive.is_file():
            raise ArchiveError(f"there is no file {archive}")
        order = ImportOrder(name, str(archive), base_modules, base, base_template, allow_template)
        return self._import(order, lambda staged: extract_archive(archive, staged), set_alias)

    def allow_template(self, ref: AdapterRef) -> StoredAdapter:
        """Let a version be rendered with the chat template that it brought: the operator's word.

        Raises `AdapterNotFoundError`, and `StoreError` for a version without a template.
        """
        with self._changing():
            stored = self.get(ref)
            self._writer.write_file(self._layout.templates, self._templates.text_with(stored))
        return stored

    def allows_template(self, stored: StoredAdapter) -> bool:
        """Whether `allow_template` was said of `stored`."""
        return self._templates.allows(stored)

    def changes_templates(self, path: str) -> bool:
        """Whether a changed path is the file that keeps what `allow_template` said."""
        return path == str(self._layout.templates)

    def export_archive(self, ref: AdapterRef, target: Path) -> StoredAdapter:
        """Write a version to one tar file. Raises `AdapterNotFoundError`, `ArchiveError`."""
        stored = self.get(ref)
        write_archive(stored.path, target)
        return stored

    @property
    def policy(self) -> KeepPolicy:
        """How many versions of a name stay when another is published. Raises `DocumentError`."""
        return self._retention.policy

    def set_policy(self, policy: KeepPolicy) -> None:
        """Let every publisher keep to this from now on; nothing goes before the next publish."""
        with self._changing():
            self._retention.set_policy(policy)

    def hold(self, refs: Collection[AdapterRef]) -> None:
        """Let no prune take these versions away until this store holds others, or the process ends.

        Raises `StoreError`.
        """
        with self._changing():
            self._retention.hold(refs)

    def prune(self, name: str, keep: int | None = None) -> tuple[int, ...]:
        """Remove all but the newest `keep` versions, by default as many as the policy says.

        Never one that the name points at, nor one that a process holds. Returns what went. Raises
        `AdapterNotFoundError`, and `DocumentError` for a policy that can't be read.
        """
        check_name(name)
        assert keep is None or keep >= 1
        with self._changing():
            if not self._reader.versions(name):
                raise AdapterNotFoundError(self._strays.not_found(AdapterRef(name)))
            keep = keep or self.policy.keep
            return () if keep is None else self._retention.remove_old(name, keep)

    def quarantine(self, ref: AdapterRef, reason: str) -> None:
        """Move a version out of sight, with the reason; in a read-only store, pass it over.

        Does nothing when the version is gone already.
        """
        assert ref.version is not None
        folder = self._layout.version_folder(ref.name, ref.version)
        try:
            with self._changing():
                if folder.is_dir():
                    self._quarantine.take(ref.name, ref.version, reason)
        except StoreError:
            self._reader.marked[(ref.name, ref.version)] = reason

    def quarantined(self) -> tuple[QuarantinedAdapter, ...]:
        """What is in quarantine."""
        return self._quarantine.all()

    def quarantine_reason(self, ref: AdapterRef) -> str | None:
        """Why what `ref` names can't be had; None when it isn't in quarantine."""
        return self._strays.quarantine_reason(ref)

    def restore(self, key: str) -> AdapterRef:
        """Take a version out of quarantine, once its files were repaired.

        Raises `AdapterNotFoundError`, `StoreError`, and `UnsoundError` while the files aren't those
        that were published.
        """
        with self._changing():
            return self._quarantine.restore(key)

    def discard(self, key: str) -> AdapterRef:
        """Delete a version in quarantine for good. Raises `AdapterNotFoundError`."""
        with self._changing():
            return self._quarantine.discard(key)

    def sweep(self, settle_seconds: float = SETTLE_SECONDS) -> tuple[AdapterRef, ...]:
        """Quarantine every version that doesn't read, and say which.

        One that something is still being copied into is left alone until nothing in it has changed
        for `settle_seconds`. Unchanged folders aren't read again.
        """
        taken = []
        for ref, reason in self._sweeper.unsound_versions(settle_seconds):
            self.quarantine(ref, reason)
            taken.append(ref)
        return tuple(taken)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the store alone, in a clean state."""
        try:
            with exclusive_lock(self._layout.lock):
                self._recover()
                yield
        except OSError as error:
            raise StoreError(f"the store {self.root} can't be changed: {error}") from error

    def _publish(
        self,
        name: str,
        fill: Callable[[Path], None],
        describe: Describe,
        *,
        set_alias: bool = True,
    ) -> StoredAdapter:
        """Make the next version as `StoreWriter.publish` does, then keep to the policy.

        `describe` is given what `name` meant until then too.
        """
        with self._changing():
            parent, replaced = self._current_label(name), self._reader.alias(name).versions
            version = self._writer.publish(
                name, fill, lambda staged: describe(staged, parent), set_alias=set_alias
            )
            stored = self.get(AdapterRef(name, version))
            self._retention.keep_to_policy(name, replaced)
        return stored

    def _import(
        self,
        order: ImportOrder,
        fill: Callable[[Path], None],
        set_alias: bool,
        came_with: Path | None = None,
    ) -> StoredAdapter:
        """Publish what `fill` stages as `order` describes it, with the permission that it gives."""
        stored = self._publish(
            order.name,
            fill,
            lambda staged, parent: order.describe(staged, parent, came_with=came_with),
            set_alias=set_alias,
        )
        if order.needs_permission(stored.manifest):
            self.allow_template(AdapterRef(stored.name, stored.version))
        return stored

    def _recover(self) -> None:
        self._writer.recover()
        self._quarantine.recover()

    def _check_sound(self, ref: AdapterRef) -> None:
        stored = self.get(ref)
        if reason := damage(stored.path, stored.digest):
            raise UnsoundError(
                f"{ref} can't be what {ref.name} means: it is damaged: {reason}. Choose another"
            )

    def _current_label(self, name: str) -> str | None:
        current = self._reader.current(name)
        return None if current is None else current.label
