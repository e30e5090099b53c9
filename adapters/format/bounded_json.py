"""JSON from strangers: bounded in size and depth, with no duplicate keys, NaN or infinity."""

import json
import os
from pathlib import Path
from typing import Any

from adapters.errors import DocumentError


def read_json_object(path: Path, *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """The JSON object in a file. Raises `DocumentError`, which names the file first."""
    try:
        with path.open("rb", buffering=0) as file:
            # A read takes memory for all that it is allowed to read.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, max_bytes) + 1)
    except OSError as error:
        raise DocumentError(f"{path.name} can't be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise DocumentError(f"{path.name} is larger than {max_bytes} bytes, which no real one is")
    return parse_json_object(data, path.name, max_depth=max_depth)


def parse_json_object(data: bytes, title: str, *, max_depth: int) -> dict[str, Any]:
    """The JSON object in `data`. Raises `DocumentError`, which begins with `title`."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
        )
    except RecursionError as error:  # the parser's own limit, far above any `max_depth`
        raise _too_deep(title, max_depth) from error
    except ValueError as error:
        raise DocumentError(f"{title} isn't valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DocumentError(f"{title} must hold a JSON object, not {type(value).__name__}")
    if not _is_shallow(value, max_depth):
        raise _too_deep(title, max_depth)
    return value


def _is_shallow(value: dict[str, Any], max_depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(max_depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False


def _too_deep(title: str, max_depth: int) -> DocumentError:
    return DocumentError(f"{title} is nested deeper than {max_depth} levels")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key[:200]!r} occurs twice")
        document[key] = value
    return document


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't a JSON number")
