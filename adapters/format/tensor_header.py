"""The header of a safetensors file: names, types and places of its tensors, none of them read.

Format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes without holes
(https://huggingface.co/docs/safetensors, "Format"). Everything in the header is checked against
the file before anything is believed.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from adapters.errors import DocumentError, TensorFileError
from adapters.format.bounded_json import parse_json_object

MAX_HEADER_BYTES = 32 << 20
"""What `MAX_TENSORS` take with names of 100 letters. The safetensors library reads up to 100 MB."""

MAX_TENSORS = 131_072
"""Two for each linear of the largest mixtures of experts, and half as many again."""

_LENGTH_BYTES = 8
_MAX_KEPT_BYTES = 1_000_000
_MAX_DEPTH = 4
_MAX_DIMENSIONS = 16
_ENTRY_KEYS = frozenset({"dtype", "shape", "data_offsets"})

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: its bytes are `[begin, end)` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_tensor_header(path: Path) -> Mapping[str, TensorEntry]:
    """Tensor name -> entry, in the order of their bytes. Raises `TensorFileError`."""
    try:
        with path.open("rb") as file:
            return read_header(file, os.fstat(file.fileno()).st_size, path.name)
    except OSError as error:
        raise TensorFileError(f"{path.name} can't be read", [str(error.strerror)]) from error


def read_header(file: BinaryIO, file_size: int, title: str) -> Mapping[str, TensorEntry]:
    """The same of an open file of `file_size` bytes. Raises `TensorFileError`, `OSError`."""
    start = file.read(_LENGTH_BYTES)
    problem = _length_problem(start, file_size)
    if problem is not None:
        raise TensorFileError(f"{title} is malformed", [problem])
    header = file.read(int.from_bytes(start, "little"))
    if len(header) > _MAX_KEPT_BYTES:
        return _parse_header(header, file_size, title)
    return _kept_header(header, file_size, title)


def _parse_header(header: bytes, file_size: int, title: str) -> Mapping[str, TensorEntry]:
    try:
        document = parse_json_object(header, f"{title}'s header", max_depth=_MAX_DEPTH)
    except DocumentError as error:
        raise TensorFileError(f"{title} is malformed", [str(error)]) from error
    if len(document) > MAX_TENSORS:
        raise TensorFileError(
            f"{title} is malformed",
            [f"its header lists {len(document)} tensors; at most {MAX_TENSORS} are read"],
        )
    data_start = _LENGTH_BYTES + len(header)
    problems: list[str] = []
    entries = _read_entries(document, data_start, problems)
    problems += _layout_problems(entries, data_start, file_size, sound=not problems)
    if problems:
        raise TensorFileError(f"{title} is malformed", problems)
    return MappingProxyType({entry.name: entry for entry in entries})


# Adapters of one shape have the same header, to the byte.
_kept_header = lru_cache(maxsize=32)(_parse_header)


def _length_problem(start: bytes, file_size: int) -> str | None:
    length = int.from_bytes(start, "little")
    # A sound header of 640 bytes begins like a pickle, so the length is asked first.
    is_sound = _LENGTH_BYTES + length <= file_size and len(start) == _LENGTH_BYTES
    if not is_sound and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return (
            "it is a pickle (or zip of pickles) under a .safetensors name; pickles can run code "
            "and aren't read. Save the adapter again with safe_serialization=True"
        )
    if len(start) < _LENGTH_BYTES:
        return f"it has {file_size} bytes; a safetensors file has at least {_LENGTH_BYTES}"
    if length > MAX_HEADER_BYTES:
        return f"its header claims {length} bytes; at most {MAX_HEADER_BYTES} are read"
    if _LENGTH_BYTES + length > file_size:
        return f"its header claims {length} bytes and the file has {file_size}: it is truncated"
    return None


def _read_entries(
    document: Mapping[str, Any], data_start: int, problems: list[str]
) -> list[TensorEntry]:
    entries = []
    for name, value in document.items():
        if name == "__metadata__":
            if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
                problems.append("__metadata__ must map strings to strings")
            continue
        entry = _read_entry(name, value, data_start)
        if isinstance(entry, str):
            problems.append(f"tensor {name[:200]}: {entry}")
        else:
            entries.append(entry)
    return sorted(entries, key=lambda entry: (entry.begin, entry.end))


def _read_entry(name: str, value: Any, data_start: int) -> TensorEntry | str:
    """The entry, or what is wrong with it."""
    if not isinstance(value, dict) or value.keys() != _ENTRY_KEYS:
        return "its entry must have exactly dtype, shape and data_offsets"
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        return f"unknown dtype {str(dtype)[:40]!r}; known are {', '.join(DTYPE_BYTES)}"
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        return f"its shape {str(shape)[:80]} isn't a list of up to {_MAX_DIMENSIONS} sizes"
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"its data_offsets {str(offsets)[:80]} aren't [begin, end]"
    num_bytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != num_bytes:
        return (
            f"{dtype} of shape {shape} takes {num_bytes} bytes, but its data_offsets span "
            f"{offsets[1] - offsets[0]}"
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 1 << 62 for item in value
    )


def _layout_problems(
    entries: list[TensorEntry], data_start: int, file_size: int, *, sound: bool
) -> list[str]:
    """Overlaps, holes, and bytes outside the file. Holes mean nothing while entries are missing."""
    problems = []
    position = data_start
    for entry in entries:
        if entry.end > file_size:
            problems.append(
                f"tensor {entry.name[:200]} ends at byte {entry.end} and the file has {file_size}: "
                "the file is truncated"
            )
        if entry.begin < position:
            problems.append(f"tensor {entry.name[:200]} overlaps the one before it")
        elif entry.begin > position and sound:
            gap = entry.begin - position
            problems.append(f"{gap} bytes before tensor {entry.name[:200]} belong to none")
        position = max(position, entry.end)
    if sound and position < file_size:
        problems.append(f"{file_size - position} bytes at its end belong to no tensor")
    return problems
