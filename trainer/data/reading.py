"""Rows from files or the hub, one at a time, each with the place where it stands.

Text files are read as they are written: a number in a CSV stays the text that it is, and a row of
JSON has the fields that its line has. Tables give every struct the fields of all rows; those that
a row lacks are null there and left out.
"""

import csv
import io
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from trainer.data.formats.json_rows import json_rows
from trainer.data.formats.source_row import SourceRow
from trainer.errors import DataError, RowError

_JSON = frozenset({".json", ".jsonl", ".ndjson"})
_SUFFIXES = (*sorted(_JSON), ".csv", ".parquet")
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_ROWS_A_BATCH = 512

Rows = Generator[SourceRow | tuple[str, RowError]]
"""Rows; where one can't be parsed its place and the reason."""


def read_rows(path: Path, reference: str, split: str = "train") -> Rows:
    """The rows of the file `path`, or of the hub dataset `reference` if there is no such file.

    `split` is the hub dataset's; a file has one.
    Raises `DataError` for a file that isn't there, has an unknown suffix or can't be parsed.
    """
    if path.is_file():
        return _file_rows(path)
    kind, _ = _kind(path)
    looks_like_file = kind in _SUFFIXES or reference.count("/") != 1
    if looks_like_file or reference.startswith((".", "/", "~")) or path.exists():
        raise DataError(f"no data file {path} (paths are relative to the config file)")
    return _hub_rows(reference, split)


def _kind(path: Path) -> tuple[str, str | None]:
    """The suffix that tells the format, and how the file is compressed."""
    suffix = path.suffix.lower()
    compression = _COMPRESSED.get(suffix)
    return (Path(path.stem).suffix.lower() if compression else suffix), compression


def _file_rows(path: Path) -> Rows:
    kind, compression = _kind(path)
    if kind not in _SUFFIXES or (kind == ".parquet" and compression):
        raise DataError(
            f"{path} has an unknown suffix; use {', '.join(_SUFFIXES)}, the text files also "
            f"compressed ({', '.join(_COMPRESSED)})"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    with _explained(str(path)):
        if kind == ".parquet":
            yield from _parquet_rows(path)
            return
        with _text(path, compression) as lines:
            yield from json_rows(lines) if kind in _JSON else _csv_rows(lines)


@contextmanager
def _explained(source: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{source} {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source} can't be read: it isn't UTF-8 ({error.reason})") from error
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{source} can't be read: {reason[0]}") from error


@contextmanager
def _text(path: Path, compression: str | None) -> Iterator[TextIO]:
    import pyarrow

    with pyarrow.input_stream(str(path), compression=compression) as stream:
        # Line ends stay what they are: they may stand within a quoted cell.
        yield io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _csv_rows(lines: TextIO) -> Rows:
    """Cells as text; an empty one is None."""
    csv.field_size_limit(1 << 30)
    reader = csv.reader(lines, strict=True)
    names = next(reader, [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"line 1 names the column {twice[0]} twice")
    line = reader.line_num + 1
    for cells in _parsed(reader):
        place, line = f"line {line}", reader.line_num + 1
        if len(cells) > len(names):
            yield place, RowError("row", f"{len(cells)} cells, and line 1 names {len(names)}")
        elif cells:
            values = dict.fromkeys(names) | dict(zip(names, cells, strict=False))
            yield SourceRow(place, {name: value or None for name, value in values.items()})


def _parsed(reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"can't be read: line {reader.line_num}: {error}") from error


def _parquet_rows(path: Path) -> Rows:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_A_BATCH):
            for values in batch.to_pylist():
                number += 1
                yield SourceRow(f"row {number}", without_nulls(values))


def _hub_rows(reference: str, split: str) -> Rows:
    import datasets

    # Its own log says in red what our error says in one line.
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    with _explained(f"hub dataset {reference}"):
        rows = datasets.load_dataset(reference, streaming=True, split=split)
        if mixed := _json_columns(rows.features or {}):
            raise DataError(
                f"has columns of mixed types ({', '.join(mixed)}), of which `datasets` reads text "
                "as JSON values (the text 42 becomes the number): download its file and name that"
            )
        for number, values in enumerate(rows, 1):
            yield SourceRow(f"row {number}", without_nulls(values))


def _json_columns(features: Any, name: str = "") -> list[str]:
    """The columns that `datasets` 5 keeps as JSON and decodes.

    `findings/datasets_reads_strings_as_json.sh` shows what that does to text.
    """
    if type(features).__name__ == "Json":
        return [name]
    if isinstance(features, Mapping):
        parts = features.items()
        return [c for k, v in parts for c in _json_columns(v, f"{name}.{k}" if name else str(k))]
    inner = features[0] if isinstance(features, list) else getattr(features, "feature", None)
    return [] if inner is None else _json_columns(inner, name)


def without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """A table's row with its columns, and of structs in it only the fields that the row has."""
    return {name: _filled(value) for name, value in values.items()}


def _filled(value: Any) -> Any:
    """None for a struct of which no field is filled."""
    if isinstance(value, Mapping):
        filled = {name: _filled(item) for name, item in value.items()}
        filled = {name: item for name, item in filled.items() if item is not None}
        return filled if filled or not value else None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_filled(item) for item in value]
    return value
