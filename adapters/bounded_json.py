"""JSON from strangers: bounded in size and depth, with no duplicate keys, NaN or infinity."""

import json
import re
from pathlib import Path
from typing import Any

from adapters.errors import DocumentError

# A string is one token, so that brackets inside it don't count. Possessive and with an optional
# end, so that the scan is linear even in a string that never closes.
_DEPTH_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def read_json_object(path: Path, *, max_bytes: int, max_depth: int) -> dict[str, Any]:
    """The JSON object in a file. Raises `DocumentError`, which names the file first."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise DocumentError(f"{path.name} can't be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise DocumentError(f"{path.name} is larger than {max_bytes} bytes, which no real one is")
    return parse_json_object(data, path.name, max_depth=max_depth)


def parse_json_object(data: bytes, title: str, *, max_depth: int) -> dict[str, Any]:
    """The JSON object in `data`. Raises `DocumentError`, which begins with `title`."""
    try:
        text = data.decode("utf-8")
        _check_depth(text, title, max_depth)
        value = json.loads(
            text, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{title} isn't valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DocumentError(f"{title} must hold a JSON object, not {type(value).__name__}")
    return value


def _check_depth(text: str, title: str, max_depth: int) -> None:
    depth = 0
    for token in _DEPTH_TOKEN.finditer(text):
        first = token[0][:1]
        if first in "[{":
            depth += 1
            if depth > max_depth:
                raise DocumentError(f"{title} is nested deeper than {max_depth} levels")
        elif first in "]}":
            depth -= 1


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key[:200]!r} occurs twice")
        document[key] = value
    return document


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't a JSON number")
