"""Which versions may be rendered with the chat template that they brought: `.templates.json`.

The operator's word, and so of this store alone: no folder, archive or remote carries the file. An
entry names the version, its digest and its template's hash, and holds for nothing else that comes
under the same name.
"""

import json
from collections.abc import Mapping
from typing import Any

from adapters.errors import DocumentError, StoreError
from adapters.format.bounded_json import read_json_object
from adapters.store.file_stamp import Stamp, stamp_of
from adapters.store.layout import StoreLayout
from adapters.store.stored_adapter import StoredAdapter

MAX_PERMISSIONS_BYTES = 16 << 20
_FORMAT = 1

Permissions = Mapping[str, tuple[str, str]]
"""`name@version` -> digest and template hash."""


class TemplatePermissions:
    """The permissions of one store. Reading takes no lock; threads may share it."""

    def __init__(self, layout: StoreLayout) -> None:
        self._path = layout.templates
        self._read: tuple[Stamp | None, Permissions] = (None, {})

    def allows(self, stored: StoredAdapter) -> bool:
        """Whether the operator allowed the template that `stored` has."""
        return self.all().get(stored.label) == _entry(stored)

    def all(self) -> Permissions:
        """Every entry. A file that can't be read allows nothing."""
        stamp = stamp_of(str(self._path))
        if stamp != self._read[0]:
            self._read = (stamp, {} if stamp is None else self._parsed())
        return self._read[1]

    def text_with(self, stored: StoredAdapter) -> str:
        """What the file holds once `stored` is allowed. Raises `StoreError`: it has no template."""
        entry = _entry(stored)
        if entry is None:
            raise StoreError(f"{stored.label} has no chat template of its own: nothing to allow")
        entries = {**self.all(), stored.label: entry}
        return json.dumps({"format": _FORMAT, "allowed": entries}, indent=2) + "\n"

    def _parsed(self) -> Permissions:
        try:
            document = read_json_object(self._path, max_bytes=MAX_PERMISSIONS_BYTES, max_depth=3)
        except DocumentError:
            return {}
        allowed = document.get("allowed")
        if document.get("format") != _FORMAT or not isinstance(allowed, dict):
            return {}
        return {label: (e[0], e[1]) for label, e in allowed.items() if _is_entry(e)}


def _entry(stored: StoredAdapter) -> tuple[str, str] | None:
    template = stored.lineage.template_hash
    return None if template is None else (stored.digest, template)


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)
    )
