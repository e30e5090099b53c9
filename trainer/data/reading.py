"""Rows from files or the hub, read by `datasets` as a stream: no cache, one row at a time."""

import logging
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import DataError

_BUILDERS = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet",
}  # fmt: skip


def read_rows(path: Path, reference: str, split: str = "train") -> Generator[Mapping[str, Any]]:
    """The rows of the file `path`, or of the hub dataset `reference` if there is no such file.

    `split` is the hub dataset's; a file has one.
    Raises `DataError` for a file that isn't there, has an unknown suffix or can't be parsed.
    """
    if path.is_file():
        return _file_rows(path)
    looks_like_file = path.suffix.lower() in _BUILDERS or reference.count("/") != 1
    if looks_like_file or reference.startswith((".", "/", "~")) or path.exists():
        raise DataError(f"no data file {path} (paths are relative to the config file)")
    return _stream(f"hub dataset {reference}", reference, {"split": split})


def _file_rows(path: Path) -> Generator[Mapping[str, Any]]:
    builder = _BUILDERS.get(path.suffix.lower())
    if builder is None:
        raise DataError(f"{path} has an unknown suffix; use {', '.join(sorted(_BUILDERS))}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    options = {"data_files": str(path.resolve()).replace("[", "[[]"), "split": "train"}
    return _stream(str(path), builder, options)


def _stream(source: str, builder: str, options: dict[str, Any]) -> Generator[Mapping[str, Any]]:
    import datasets

    # Its own log says in red what our error says in one line.
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    try:
        yield from datasets.load_dataset(builder, streaming=True, **options)
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{source} can't be read: {reason[0]}") from error
