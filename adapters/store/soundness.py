"""Does a folder in a store still read as a version, and is it the one that was published?"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from adapters.errors import (
    DocumentError,
    ManifestError,
    TensorFileError,
    UnsoundError,
    first_dozen,
)
from adapters.format.adapter_config import read_adapter_config
from adapters.format.adapter_image import AdapterImage, read_image
from adapters.format.digest import image_digest
from adapters.format.folder_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, list_folder
from adapters.format.manifest import read_manifest
from adapters.format.tensor_header import read_tensor_header
from adapters.format.tensor_values import value_problem
from adapters.names import AdapterRef
from adapters.seal import seal_problems
from adapters.store.layout import StoreLayout

Stamp = tuple[tuple[str, int, int], ...]
"""(name, inode, change time in ns) of a folder's files: equal stamps mean nothing changed."""


def folder_stamp(folder: Path) -> Stamp:
    """The stamp of a folder and the files right in it; empty when it can't be read."""
    try:
        own = folder.stat()
        with os.scandir(folder) as entries:
            files = [(e.name, e.stat(follow_symlinks=False)) for e in entries]
    except OSError:
        return ()
    listed = [(name, status.st_ino, status.st_ctime_ns) for name, status in files]
    return (("", own.st_ino, own.st_ctime_ns), *sorted(listed))


def seconds_unchanged(stamp: Stamp) -> float:
    """How long nothing has come or changed; a copy at work keeps this small."""
    newest = max((change for _, _, change in stamp), default=0)
    return time.time() - newest / 1e9


class Sweeper:
    """Examines the versions of one store; remembers which it found sound, by their stamps."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._sound: dict[tuple[str, int], Stamp] = {}
        self.num_examined = 0

    def unsound_versions(self, settle_seconds: float) -> Iterator[tuple[AdapterRef, str]]:
        """Every version that must go, with the reason. See `examine`."""
        for name in self._layout.name_folders():
            for version in self._layout.version_folders(name):
                reason = self.examine(name, version, settle_seconds)
                if reason is not None:
                    yield AdapterRef(name, version), reason

    def examine(self, name: str, version: int, settle_seconds: float) -> str | None:
        """Why a version must go, or None: it is sound, or it may still be coming."""
        folder = self._layout.version_folder(name, version)
        stamp = folder_stamp(folder)
        if not stamp or self._sound.get((name, version)) == stamp:
            return None
        if self._layout.is_unfinished(name, version, self._layout.read_alias(name)):
            return None
        if seconds_unchanged(stamp) < settle_seconds:
            return None
        self.num_examined += 1
        reason = unsound(folder)
        if reason is None:
            self._sound[name, version] = stamp
        return reason


def unsound(folder: Path) -> str | None:
    """Why the folder can't be a version, all reasons; None when it reads.

    What a method's tensors must look like isn't asked here: a newer program's adapters are kept.
    """
    problems, files = _listed(folder)
    problems += _unsealed(folder, files, whole=False)
    try:
        if CONFIG_FILE in files:
            read_adapter_config(files[CONFIG_FILE])
    except DocumentError as error:
        problems.append(str(error))
    try:
        if WEIGHTS_FILE in files:
            read_tensor_header(files[WEIGHTS_FILE])
    except TensorFileError as error:
        problems += _of_weights(error)
    return "\n".join(problems) or None


def read_sound(folder: Path, digest: str) -> AdapterImage:
    """All of the version that was published as `digest`, read once and checked.

    Raises `UnsoundError` with the reason when the folder isn't, or is no longer, that version.
    """
    problems, files = _listed(folder)
    image: AdapterImage | None = None
    if not problems and CONFIG_FILE in files and WEIGHTS_FILE in files:
        try:
            image = read_image(folder)
        except DocumentError as error:
            problems.append(str(error))
        except TensorFileError as error:
            problems += _of_weights(error)
    if problems or image is None:
        raise UnsoundError(unsound(folder) or "\n".join(problems))
    found = image_digest(image)
    if found != digest:
        raise UnsoundError(
            f"its files are {found}, and it was published as {digest}: they were changed or "
            "damaged since"
        )
    if changed := _unsealed(folder, files, weights=image.data):
        raise UnsoundError("\n".join(changed))
    if problem := value_problem(image):
        raise UnsoundError(problem)
    return image


def damage(folder: Path, digest: str) -> str | None:
    """Why `read_sound` refuses the folder, or None. Reads every byte."""
    try:
        read_sound(folder, digest)
    except UnsoundError as error:
        return str(error)
    return None


def _listed(folder: Path) -> tuple[list[str], dict[str, Path]]:
    """What is wrong with the files' names and the manifest, and the files."""
    try:
        listing = list_folder(folder)
    except OSError as error:
        return [f"the folder can't be read: {error.strerror}"], {}
    problems = list(listing.problems)
    blamed = {problem.partition(" ")[0] for problem in listing.problems}
    for name in (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE):
        if name not in listing.files and name not in blamed:
            problems.append(f"{name} is missing: the folder is half copied, or no adapter")
    try:
        if MANIFEST_FILE in listing.files and not read_manifest(folder / MANIFEST_FILE).digest:
            raise ManifestError(f"{MANIFEST_FILE} has no digest: it wasn't published")
    except DocumentError as error:
        problems.append(str(error))
    return problems, listing.files


def _unsealed(
    folder: Path, files: Mapping[str, Path], *, weights: bytearray | None = None, whole: bool = True
) -> list[str]:
    """What differs from the files that were published; of an unreadable manifest nothing is said.

    `_listed` says it.
    """
    if MANIFEST_FILE not in files:
        return []
    try:
        return first_dozen(seal_problems(folder, files, weights=weights, whole=whole))
    except DocumentError:
        return []
    except OSError as error:
        return [f"a file can't be read: {error.strerror}"]


def _of_weights(error: TensorFileError) -> list[str]:
    return [f"{WEIGHTS_FILE}: {problem}" for problem in first_dozen(error.problems)]
