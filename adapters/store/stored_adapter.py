"""One published version, as a store knows it."""

from dataclasses import dataclass, field
from pathlib import Path

from adapters.format.folder_files import MANIFEST_FILE
from adapters.format.manifest import Lineage, Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """One published version. Its folder doesn't change until it is removed.

    `size_bytes` is the weights file's; the rest is the manifest's.
    """

    name: str
    version: int
    digest: str
    rank: int
    path: Path
    size_bytes: int
    method: str
    created_unix_seconds: int
    lineage: Lineage
    read: Manifest | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def of(
        name: str, version: int, path: Path, size_bytes: int, manifest: Manifest
    ) -> "StoredAdapter":
        """The version whose manifest was read just now."""
        return StoredAdapter(
            name,
            version,
            manifest.digest,
            manifest.rank,
            path,
            size_bytes,
            manifest.method,
            manifest.created_unix_seconds,
            manifest.lineage,
            manifest,
        )

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def manifest(self) -> Manifest:
        """All of the manifest, read now where the store's index knew the rest.

        Raises `ManifestError` when the version was removed in the meantime.
        """
        return self.read if self.read is not None else read_manifest(self.path / MANIFEST_FILE)
