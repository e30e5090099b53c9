"""Rows of JSON text: one a line, an array of them, or an object that holds the array."""

import json
from collections.abc import Generator, Mapping
from typing import Any, TextIO

from trainer.data.formats.source_row import SHOWN_CHARS, SourceRow, shown
from trainer.errors import DataError, RowError

_HOLDERS = ("data", "train", "rows", "examples", "instances")
"""Names under which files keep their rows: `{"data": [...]}`."""

_DECODER = json.JSONDecoder()

JsonRows = Generator[SourceRow | tuple[str, RowError]]


def json_rows(lines: TextIO) -> JsonRows:
    """Rows with the line that each begins on. A row that can't be parsed comes as its error."""
    before, first = 0, lines.readline()
    while first and not first.strip():
        before, first = before + 1, lines.readline()
    if first.lstrip().startswith("[") or not _is_json(first):
        text = "\n" * before + first + lines.read()
        if first.lstrip().startswith("["):
            yield from _elements(text, text.index("["))
            return
        document = _document(text)
        if document is None:
            for number, line in enumerate(text.split("\n"), 1):
                yield from _line(line, number)
        elif (start := _held_from(document, text)) is not None:
            yield from _elements(text, start)
        else:
            yield SourceRow(f"line {before + 1}", document)
        return
    value, second = json.loads(first), lines.readline()
    start = _held_from(value, first) if isinstance(value, Mapping) and not second.strip() else None
    if start is not None:
        yield from _elements("\n" * before + first, before + start)
        return
    yield from _line(first, before + 1)
    number = before + 2
    while second:
        yield from _line(second, number)
        number, second = number + 1, lines.readline()


def _line(line: str, number: int) -> JsonRows:
    if not line.strip():
        return
    place = f"line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        yield place, RowError("row", f"can't be read: {shown(line)} is no JSON ({reason})")
        return
    yield _row(place, value)


def _row(place: str, value: Any) -> SourceRow | tuple[str, RowError]:
    if isinstance(value, Mapping):
        return SourceRow(place, value)
    return place, RowError("row", f"can't be read: {shown(value)} is no object")


def _elements(text: str, start: int) -> JsonRows:
    """The elements of the array that begins at `start`, parsed one by one."""
    position, line = start + 1, 1 + text.count("\n", 0, start + 1)
    while True:
        begin = _skip_space(text, position)
        line += text.count("\n", position, begin)
        if text[begin : begin + 1] == "]":
            return
        try:
            value, position = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise DataError(
                f"can't be read: from line {line} on it is no JSON ({reason}): "
                f"{shown(text[begin : begin + 2 * SHOWN_CHARS])}"
            ) from None
        yield _row(f"line {line}", value)
        line += text.count("\n", begin, position)
        after = _skip_space(text, position)
        line += text.count("\n", position, after)
        position = after + (text[after : after + 1] == ",")
        if text[after : after + 1] not in (",", "]"):
            raise DataError(f"can't be read: the list of rows isn't closed at line {line}")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _document(text: str) -> Mapping[str, Any] | None:
    """The one object that the text is, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _held_from(document: Mapping[str, Any], text: str) -> int | None:
    """Where in `text` the array of rows begins that `document` holds; None for a row itself."""
    for name in _HOLDERS:
        value = document.get(name)
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            return text.index("[", _end_of_key(text, name))
    return None


def _end_of_key(text: str, wanted: str) -> int:
    """The position behind the top level key `wanted` of the object that is `text`."""
    position = text.index("{") + 1
    while True:
        key, position = _DECODER.raw_decode(text, _skip_space(text, position))
        position = _skip_space(text, position) + 1  # the colon
        if key == wanted:
            return position
        _, position = _DECODER.raw_decode(text, _skip_space(text, position))
        position = _skip_space(text, position) + 1  # the comma
