"""An adapter version as one tar file: the same version gives the same bytes, wherever and whenever.

The archive holds the version's files at its top level, plain files only. Reading trusts nothing of
what a header says: names, kinds, counts and sizes are checked before a byte is written.
"""

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from adapters.errors import ArchiveError
from adapters.format.folder_files import MAX_FILES, list_folder
from adapters.store.durable_files import sync_path

MAX_BYTES = 64 << 30
"""Of all files of an archive together."""

_MAX_NAME_CHARS = 512
_COPY_BYTES = 1 << 20
_END = bytes(1024)


def write_archive(folder: Path, target: Path) -> None:
    """Write a version's folder to `target`, whole or not at all. Raises `ArchiveError`, `OSError`.

    Files are in the order of their names; times, owners and modes are constants.
    """
    listing = list_folder(folder)
    if listing.problems:
        raise ArchiveError(f"{folder} can't be exported: {'; '.join(listing.problems)}")
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with aside.open("xb") as raw:
            with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, path in listing.files.items():
                    with path.open("rb") as file:
                        member = tarfile.TarInfo(name)
                        member.size = os.fstat(file.fileno()).st_size
                        member.mode = 0o644
                        tar.addfile(member, file)
            raw.flush()
            os.fsync(raw.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    sync_path(target.parent)


def extract_archive(archive: Path, target: Path) -> None:
    """Extract into the new folder `target` and flush all of it.

    Raises `ArchiveError` for anything that `write_archive` wouldn't have written, and `OSError`.
    """
    target.mkdir()
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            _extract(tar, archive, target)
            raw.seek(tar.offset)
            if raw.read(len(_END)) != _END:
                raise ArchiveError(f"{archive} has no end: it is truncated")
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{archive} isn't a readable tar file: {error}") from error
    for directory, _, _ in os.walk(target, topdown=False):
        sync_path(Path(directory))


def _extract(tar: tarfile.TarFile, archive: Path, target: Path) -> None:
    seen: set[str] = set()
    num_bytes = 0
    for member in tar:
        if member.isdir():
            continue
        problem = _problem(member, seen)
        num_bytes += member.size
        if problem is None and num_bytes > MAX_BYTES:
            problem = f"its files take over {MAX_BYTES} bytes"
        if problem is not None:
            raise ArchiveError(f"{archive} can't be imported: {problem}")
        seen.add(member.name)
        source = tar.extractfile(member)
        assert source is not None
        copy = target / member.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("xb") as writer:
            shutil.copyfileobj(source, writer, _COPY_BYTES)
            if writer.tell() != member.size:
                raise ArchiveError(f"{archive} ends within {member.name}: it is truncated")
            writer.flush()
            os.fsync(writer.fileno())
    if not seen:
        raise ArchiveError(f"{archive} holds no files")


def _problem(member: tarfile.TarInfo, seen: set[str]) -> str | None:
    shown = repr(member.name[:200])
    path = PurePosixPath(member.name)
    parts = path.parts
    if not member.isreg():
        return f"{shown} isn't a plain file; links and devices aren't extracted"
    if not parts or path.is_absolute() or ".." in parts or "\0" in member.name:
        return f"{shown} would be written outside of the adapter's folder"
    if member.name != str(path) or len(member.name) > _MAX_NAME_CHARS:
        return f"{shown} isn't a plain relative path of up to {_MAX_NAME_CHARS} characters"
    if any(part.startswith(".") for part in parts):
        return f"{shown} is a hidden file; an adapter has none"
    if member.name in seen:
        return f"{shown} is in it twice"
    if any(str(parent) in seen for parent in path.parents):
        return f"{shown} is below a file"
    if len(seen) >= MAX_FILES:
        return f"it has more than {MAX_FILES} files; an adapter has few"
    return None
