"""What a published version consists of, to the byte: every file of it and its manifest.

`adapters.format.digest` says which function an adapter is, and doesn't see what has no part in
that. A manifest of schema 2 lists the SHA-256 of each file beside it (`files`), and `seal` is that
of the manifest itself. This finds what was changed, added or lost; it is no signature: whoever may
write into a store can seal anew.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.format.folder_files import MANIFEST_FILE, WEIGHTS_FILE
from adapters.format.manifest import Manifest, read_manifest_document

SEALED_SCHEMA = 2


def sealed(manifest: Manifest, files: Mapping[str, Path]) -> Manifest:
    """`manifest` with the hashes of `files` (relative path -> file) and its seal. Raises `OSError`.

    Its digest must be there already.
    """
    unsealed = manifest.model_copy(
        update={"schema_version": SEALED_SCHEMA, "files": _hashes(files), "seal": ""}
    )
    return unsealed.model_copy(update={"seal": _seal_of(json.loads(unsealed.to_json()))})


def seal_problems(
    folder: Path, files: Mapping[str, Path], *, weights: bytearray | None = None, whole: bool = True
) -> list[str]:
    """How the manifest of `folder` and its `files` differ from what was sealed.

    Empty where nothing was: manifests of schema 1 have no seal. `weights` is the weights file where
    it was read already; without `whole` that file isn't read. Raises `DocumentError`, `OSError`.
    """
    document = read_manifest_document(folder / MANIFEST_FILE)
    if document.get("schema_version") != SEALED_SCHEMA and not document.get("seal"):
        return []
    known = document.get("files")
    if document.get("seal") != _seal_of(document) or not isinstance(known, dict):
        return [f"{MANIFEST_FILE} was changed since it was published: its seal is another's"]
    there = {name: path for name, path in files.items() if name != MANIFEST_FILE}
    problems = [f"{name} was added since it was published" for name in there.keys() - known.keys()]
    problems += [f"{name} is gone since it was published" for name in known.keys() - there.keys()]
    if not whole or weights is not None:
        there.pop(WEIGHTS_FILE, None)
    found = _hashes({name: path for name, path in there.items() if name in known})
    if weights is not None:
        found[WEIGHTS_FILE] = _shown(hashlib.sha256(weights))
    problems += [
        f"{name} was changed since it was published"
        for name, digest in found.items()
        if name in known and digest != known[name]
    ]
    return sorted(problems)


def _hashes(files: Mapping[str, Path]) -> dict[str, str]:
    found = {}
    for name, path in files.items():
        if name != MANIFEST_FILE:
            with path.open("rb") as file:
                found[name] = _shown(hashlib.file_digest(file, "sha256"))
    return found


def _seal_of(document: Mapping[str, Any]) -> str:
    told = {key: value for key, value in document.items() if key != "seal"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return _shown(hashlib.sha256(text.encode()))


def _shown(sha: "hashlib._Hash") -> str:
    return f"sha256:{sha.hexdigest()}"
