"""What a process read of a store, kept for the next one: `.index.json`.

It is a memory and never the truth. Each entry carries the stamp of the file that it was read from,
and counts only while that file still has it. Whoever has read much writes the index whole, aside,
and moves it into place without a lock: two that do so at once leave the one or the other. A file
that is torn or damaged fails its checksum and is as good as none.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.format.manifest import BaseLineage, Lineage, QuantizationRecord
from adapters.store.alias import Alias
from adapters.store.file_stamp import Stamp
from adapters.store.layout import StoreLayout
from adapters.store.stored_adapter import StoredAdapter

FORMAT = 3
_MAX_BYTES = 256 << 20
SETTLED_SECONDS = 2.0
"""A file changed this short ago may change again with the same stamp (clocks tick in ms)."""

Aliases = dict[str, tuple[Stamp, Alias]]
Versions = dict[tuple[str, int], tuple[Stamp, StoredAdapter | None]]


@dataclass
class StoreIndex:
    """What was read: aliases by name, versions by name and number, each with its file's stamp."""

    aliases: Aliases = field(default_factory=dict)
    versions: Versions = field(default_factory=dict)

    @staticmethod
    def load(layout: StoreLayout) -> "StoreIndex":
        """The index of a store; an empty one when it has none that can be read."""
        try:
            with layout.index.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            checksum, _, body = data.partition(b"\n")
            if len(data) > _MAX_BYTES or hashlib.sha256(body).hexdigest().encode() != checksum:
                return StoreIndex()
            document = json.loads(body)
            if document["format"] != FORMAT:
                return StoreIndex()
            return _read(document, layout)
        except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
            return StoreIndex()

    def save(self, layout: StoreLayout) -> None:
        """Keep it for others. A store that can't be written stays without."""
        body = json.dumps(self._document(), separators=(",", ":")).encode()
        checksum = hashlib.sha256(body).hexdigest().encode()
        aside = layout.staging / f"index.{secrets.token_hex(8)}"
        try:
            # Not flushed to the disk: after a crash of the machine the checksum tells.
            aside.write_bytes(checksum + b"\n" + body)
            aside.replace(layout.index)
        except OSError:
            return

    def _document(self) -> dict[str, Any]:
        newest = time.time_ns() - int(SETTLED_SECONDS * 1e9)
        lineages: dict[Lineage, int] = {}
        versions = [
            [
                *(stamp, name, version, stored.digest, stored.rank, stored.size_bytes),
                *(stored.method, stored.created_unix_seconds),
                lineages.setdefault(stored.lineage, len(lineages)),
            ]
            for (name, version), (stamp, stored) in self.versions.items()
            if stored is not None and stamp[1] < newest
        ]
        aliases = [
            [stamp, name, alias.targets, alias.highest]
            for name, (stamp, alias) in self.aliases.items()
            if stamp[1] < newest
        ]
        return {
            "format": FORMAT,
            "lineages": [_lineage_data(lineage) for lineage in lineages],
            "aliases": aliases,
            "versions": versions,
        }


def _read(document: Mapping[str, Any], layout: StoreLayout) -> StoreIndex:
    lineages = [_lineage(data) for data in document["lineages"]]
    index = StoreIndex()
    for stamp, name, targets, highest in document["aliases"]:
        pairs = tuple((version, weight) for version, weight in targets)
        index.aliases[name] = _stamp(stamp), Alias(pairs, highest)
    for stamp, name, version, digest, rank, size, method, created, lineage in document["versions"]:
        path = layout.version_folder(name, version)
        index.versions[name, version] = (
            _stamp(stamp),
            StoredAdapter(
                name, version, digest, rank, path, size, method, created, lineages[lineage]
            ),
        )
    return index


def _stamp(values: Any) -> Stamp:
    modified, changed, inode, size = values
    return modified, changed, inode, size


def _lineage_data(lineage: Lineage) -> list[Any]:
    base, record = lineage.base, lineage.quantization
    return [
        None if base is None else base.model_dump(),
        None if record is None else record.model_dump(),
        lineage.template_text,
    ]


def _lineage(data: list[Any]) -> Lineage:
    base, record, template_text = data
    return Lineage.of(
        None if base is None else BaseLineage.model_validate(base),
        None if record is None else QuantizationRecord.model_validate(record),
        template_text,
    )
