"""Content digest of a base model's files, computed once and remembered per (path, size, mtime)."""

import hashlib
import json
from pathlib import Path

from adapters.file_trust import make_private_folder

_CHUNK_BYTES = 1 << 22


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def folder_digest(folder: Path, cache_file: Path | None = None) -> str:
    """`sha256:` over config.json and every safetensors file of `folder`, in name order.

    Reading 14 GB takes some ten seconds, so the answer is kept in `cache_file` and used again
    while no file's size or modification time has changed. A cache that can't be read or written
    costs only the time.
    """
    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    if cache_file is not None:
        try:
            cached = json.loads(cache_file.read_text())
            if cached["stamp"] == stamp:
                return str(cached["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    sha = hashlib.sha256()
    for file in files:
        sha.update(f"{file.name}\0{file_digest(file)}\n".encode())
    digest = "sha256:" + sha.hexdigest()
    if cache_file is not None:
        try:
            make_private_folder(cache_file.parent)
            cache_file.write_text(json.dumps({"stamp": stamp, "digest": digest}))
        except OSError:
            pass
    return digest
