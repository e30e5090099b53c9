"""Which versions of a name go, and when: by the store's policy, never one that somebody needs."""

import logging
from collections.abc import Collection

from adapters.errors import AdapterError, AdapterInUseError
from adapters.names import AdapterRef
from adapters.store.keep_policy import KeepPolicy, read_policy
from adapters.store.layout import StoreLayout
from adapters.store.reader import StoreReader
from adapters.store.version_holds import VersionHolds
from adapters.store.writer import StoreWriter

logger = logging.getLogger(__name__)


class Retention:
    """The policy of one store and what it removes. Every change expects the store's lock."""

    def __init__(self, layout: StoreLayout, reader: StoreReader, writer: StoreWriter) -> None:
        self._layout = layout
        self._reader = reader
        self._writer = writer
        self._holds = VersionHolds(layout.holds)

    @property
    def policy(self) -> KeepPolicy:
        """What every publisher keeps to. Raises `DocumentError`."""
        return read_policy(self._layout.policy)

    def set_policy(self, policy: KeepPolicy) -> None:
        """Replace it. Raises `OSError`."""
        self._writer.write_file(self._layout.policy, policy.to_json())

    def hold(self, refs: Collection[AdapterRef]) -> None:
        """Let these stay, and no others that this process held before. Raises `OSError`."""
        self._holds.replace(refs)

    def keep_to_policy(self, name: str, replaced: Collection[int]) -> tuple[int, ...]:
        """After a publish: remove what the policy says; returns what went.

        `replaced`, what the name meant until then, stays: requests are on their way to it. The new
        version is there already, so nothing that goes wrong here is its publisher's failure.
        """
        try:
            keep = self.policy.keep
            return () if keep is None else self.remove_old(name, keep, replaced)
        except (AdapterError, OSError) as error:
            logger.warning("old versions of %s stay in %s: %s", name, self._layout.root, error)
            return ()

    def remove(self, ref: AdapterRef) -> None:
        """Remove a version that is there, or a name with all its versions when `ref` has none.

        Raises `AdapterInUseError` for one that the name means while there are others; `OSError`.
        """
        versions = self._reader.versions(ref.name)
        if ref.version is None or versions == (ref.version,):
            self._writer.remove_name(ref.name)
        elif ref.version in self._reader.alias(ref.name).versions:
            other = [version for version in versions if version != ref.version][-1]
            raise AdapterInUseError(
                f"{ref} is what the name {ref.name} means now: point it elsewhere first "
                f"(adapters alias {ref.name} {other}), or remove {ref.name} with all versions"
            )
        else:
            self._writer.remove_version(ref.name, ref.version)

    def remove_old(self, name: str, keep: int, spared: Collection[int] = ()) -> tuple[int, ...]:
        """Remove all but the newest `keep`; returns what went. Raises `OSError`.

        Never one that the name points at, that a process holds, or that is `spared`.
        """
        assert keep >= 1
        old = self._reader.versions(name)[:-keep]
        if not old:
            return ()
        held = {ref.version for ref in self._holds.held() if ref.name == name}
        kept = {*self._reader.alias(name).versions, *spared, *held}
        gone = tuple(version for version in old if version not in kept)
        for version in gone:
            self._writer.remove_version(name, version)
        return gone
