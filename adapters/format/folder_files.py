"""The files of an adapter folder: plain files only, nothing from outside, nothing executable."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"

MAX_FILES = 2000
"""Folders and hidden files are counted too."""

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})


@dataclass(frozen=True, slots=True)
class FolderListing:
    """Relative path -> the regular file behind it (a link inside the folder is followed)."""

    files: dict[str, Path]
    problems: tuple[str, ...]


def list_folder(folder: Path) -> FolderListing:
    """Every file below `folder` and every problem; entries that begin with a dot are left out.

    Problems are pickles, links that lead out of the folder, linked folders, and anything that is
    no regular file. Raises `OSError` when the folder can't be read.
    """
    root = folder.resolve(strict=True)
    files: dict[str, Path] = {}
    problems: list[str] = []
    pending = [root]
    num_entries = 0
    while pending:
        directory = pending.pop()
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            num_entries += 1
            if num_entries > MAX_FILES:
                problems.append(f"the folder has more than {MAX_FILES} files; an adapter has few")
                return FolderListing(files, tuple(problems))
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            relative = path.relative_to(root).as_posix()
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
                continue
            target, problem = _plain_file(root, path, relative)
            if target is not None:
                files[relative] = target
            if problem is not None:
                problems.append(problem)
    return FolderListing(dict(sorted(files.items())), tuple(problems))


def _plain_file(root: Path, path: Path, relative: str) -> tuple[Path | None, str | None]:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None, f"{relative} is a link that leads nowhere; remove it"
    if not target.is_relative_to(root):
        return None, (
            f"{relative} is a link that leaves the folder; only files inside it are read. "
            "Copy the folder with its links followed (cp -rL) and use the copy"
        )
    if not stat.S_ISREG(target.stat().st_mode):
        return None, f"{relative} isn't a regular file; remove it"
    if path.suffix.lower() in PICKLE_SUFFIXES or target.suffix.lower() in PICKLE_SUFFIXES:
        return None, _pickle_problem(relative)
    return target, None


def _pickle_problem(relative: str) -> str:
    if relative == "adapter_model.bin":
        remedy = "save the adapter again with save_pretrained(..., safe_serialization=True)"
    else:
        remedy = "use a copy of the folder without it"
    return f"{relative} is a pickle, which can run code when it is read; {remedy}"
