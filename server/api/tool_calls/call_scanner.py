"""Reads one tool call out of text that arrives in pieces.

`{"name": "f", "arguments": {...}}`, the keys in any order, `parameters` for `arguments`; or, after
Mistral's newer models, `f{...}` and `f[ARGS]{...}`.
"""

import json
from collections.abc import Collection
from enum import Enum

_SPACE = " \t\r\n"
_ARGUMENT_KEYS = ("arguments", "parameters")
_ARGS = "[ARGS]"


class ScanState(Enum):
    """How far a call is."""

    OPEN = "open"
    COMPLETE = "complete"
    BROKEN = "broken"


class ValueEnd:
    """Finds the end of one JSON value, character by character."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._num_seen = 0

    def push(self, char: str) -> bool:
        """Whether `char` is the value's last one. A bare word has none: the caller sees its end."""
        self._num_seen += 1
        if self._in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\":
                self._is_escaped = True
            elif char == '"':
                self._in_string = False
                return self._depth == 0
            return False
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            return self._depth <= 0
        return False


class CallScanner:
    """Scans one call. After each `push`: `name` once it is known, `taken_arguments()`, `state`.

    A call of a function that isn't among `names` is broken, as is anything that isn't JSON.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._buffer = ""
        self._position = 0
        self._key: str | None = None
        self._is_inside = False
        self._is_bare = False
        self._value: ValueEnd | None = None
        self._arguments = ""
        self._has_arguments = False
        self.name: str | None = None
        self.state = ScanState.OPEN

    def push(self, text: str) -> str:
        """Read on; returns what lies behind the end of the call (all of it, once it is over)."""
        if not self._is_open():
            return text
        self._buffer += text
        while self._is_open() and self._advance():
            pass
        rest = self._buffer[self._position :]
        if self._is_open():
            return ""
        self._buffer, self._position = "", 0
        return rest

    def taken_arguments(self) -> str:
        """The arguments' text since the last call; nothing before the name is known."""
        if self.name is None:
            return ""
        taken, self._arguments = self._arguments, ""
        return taken

    def _is_open(self) -> bool:
        return self.state is ScanState.OPEN

    def _advance(self) -> bool:
        """One step; False when more text is needed."""
        if self._value is not None:
            return self._stream_arguments()
        while self._position < len(self._buffer) and self._buffer[self._position] in _SPACE:
            self._position += 1
        if self._position == len(self._buffer):
            return False
        if not self._is_inside:
            return self._enter()
        if self._key is None:
            return self._read_key()
        return self._read_value()

    def _enter(self) -> bool:
        if self._buffer[self._position] == "{":
            self._is_inside = True
            self._position += 1
            return True
        brace = self._buffer.find("{", self._position)
        if brace < 0:
            if len(self._buffer) - self._position > 128:
                self.state = ScanState.BROKEN
            return False
        name = self._buffer[self._position : brace].strip().removesuffix(_ARGS).strip()
        self._position = brace
        self._is_inside = self._is_bare = True
        if self._take_name(name):
            self._begin_arguments()
        return True

    def _read_key(self) -> bool:
        char = self._buffer[self._position]
        if char == "}":
            self._position += 1
            self._end()
            return True
        if char == ",":
            self._position += 1
            return True
        if char != '"':
            self.state = ScanState.BROKEN
            return True
        end = _value_end(self._buffer, self._position)
        if end is None:
            return False
        colon = end
        while colon < len(self._buffer) and self._buffer[colon] in _SPACE:
            colon += 1
        if colon == len(self._buffer):
            return False
        key = _loaded(self._buffer[self._position : end])
        if self._buffer[colon] != ":" or not isinstance(key, str):
            self.state = ScanState.BROKEN
            return True
        self._key = key
        self._position = colon + 1
        return True

    def _read_value(self) -> bool:
        is_object = self._buffer[self._position] == "{"
        if self._key in _ARGUMENT_KEYS and is_object:
            self._begin_arguments()
            return True
        end = _value_end(self._buffer, self._position)
        if end is None:
            return False
        value = _loaded(self._buffer[self._position : end])
        self._position = end
        if self._key == "name":
            self._take_name(value)
        elif self._key in _ARGUMENT_KEYS:
            self._has_arguments = True
            self._arguments += value if isinstance(value, str) and value.strip() else "{}"
        self._key = None
        return True

    def _begin_arguments(self) -> None:
        self._value = ValueEnd()
        self._has_arguments = True

    def _stream_arguments(self) -> bool:
        assert self._value is not None
        begin = self._position
        while self._position < len(self._buffer):
            char = self._buffer[self._position]
            self._position += 1
            if self._value.push(char):
                self._arguments += self._buffer[begin : self._position]
                self._value = self._key = None
                if self._is_bare:
                    self._end()
                return True
        self._arguments += self._buffer[begin:]
        return False

    def _take_name(self, value: object) -> bool:
        if isinstance(value, str) and value in self._names:
            self.name = value
            return True
        self.state = ScanState.BROKEN
        return False

    def _end(self) -> None:
        if self.name is None:
            self.state = ScanState.BROKEN
            return
        if not self._has_arguments:
            self._arguments = "{}"
        self.state = ScanState.COMPLETE


def _value_end(text: str, begin: int) -> int | None:
    """The index behind the JSON value at `begin`; None while it isn't complete."""
    if text[begin] not in '"{[':
        return next((i for i in range(begin, len(text)) if text[i] in ",}]" + _SPACE), None)
    scan = ValueEnd()
    return next((i + 1 for i in range(begin, len(text)) if scan.push(text[i])), None)


def _loaded(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
