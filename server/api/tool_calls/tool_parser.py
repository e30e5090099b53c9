"""Finds tool calls in an answer that arrives in pieces."""

import secrets
from collections.abc import Collection, Sequence
from enum import Enum

from server.api.tool_calls.call_scanner import CallScanner, ScanState
from server.api.tool_calls.tool_formats import CallSyntax
from server.api.tool_calls.tool_pieces import ArgumentsPiece, CallPiece, ContentPiece, Piece

_SPACE = " \t\r\n"


class _Mode(Enum):
    """What is being read."""

    BEGINNING = "beginning"
    TEXT = "text"
    BETWEEN = "between"
    CALL = "call"


class CallParser:
    """Implements `tool_pieces.ToolParser` for one syntax.

    Text that only looks like the beginning of a call is held back until it is certain. What turns
    out to be no call of one of the `names` is content. White space around calls is dropped.
    """

    def __init__(self, syntax: CallSyntax, names: Collection[str]) -> None:
        self._syntax = syntax
        self._names = names
        self._mode = _Mode.BEGINNING if syntax.may_begin_bare else _Mode.TEXT
        self._held = ""
        self._raw = ""
        self._scanner: CallScanner | None = None
        self._has_begun = False
        self._num_calls = 0
        self._pieces: list[Piece] = []

    def push(self, text: str) -> Sequence[Piece]:
        self._held += text
        while self._held and self._step():
            pass
        return self._taken()

    def finish(self) -> Sequence[Piece]:
        """An unfinished call keeps what it has; one that hasn't a name yet becomes content."""
        is_undecided = self._mode is _Mode.CALL and not self._has_begun
        if is_undecided or self._mode is _Mode.BETWEEN:
            self._content(self._raw if self._num_calls == 0 else self._raw.strip())
        elif self._mode in (_Mode.TEXT, _Mode.BEGINNING):
            self._content(self._held if self._num_calls == 0 else self._held.rstrip())
        self._held = self._raw = ""
        return self._taken()

    def _taken(self) -> Sequence[Piece]:
        taken, self._pieces = self._pieces, []
        return taken

    def _step(self) -> bool:
        """Read on in the present mode; False when more text is needed."""
        match self._mode:
            case _Mode.BEGINNING:
                return self._begin()
            case _Mode.TEXT:
                return self._read_text()
            case _Mode.BETWEEN:
                return self._read_between()
            case _Mode.CALL:
                return self._read_call()

    def _begin(self) -> bool:
        stripped = self._held.lstrip()
        if not stripped:
            return False
        is_call = stripped[0] in ("{[" if self._syntax.is_array else "{")
        self._mode = _Mode.BETWEEN if is_call else _Mode.TEXT
        return True

    def _read_text(self) -> bool:
        opening = self._syntax.opening
        found = self._held.find(opening) if opening else -1
        if found >= 0:
            self._content(self._held[:found].rstrip())
            self._raw = opening
            self._held = self._held[found + len(opening) :]
            self._mode = _Mode.BETWEEN
            return True
        if self._num_calls and not self._held.strip():
            return False
        keep = _open_prefix(self._held, opening)
        split = len(self._held[: len(self._held) - keep].rstrip())
        self._content(self._held[:split])
        self._held = self._held[split:]
        return False

    def _read_between(self) -> bool:
        """In front of a call, or behind one."""
        char = self._held[0]
        closing = self._syntax.closing
        if closing and self._held.startswith(closing):
            self._leave(len(closing))
            return True
        if closing and closing.startswith(self._held):
            return False
        skipped = _SPACE + ",;" + ("[" if self._syntax.is_array else "")
        if char in skipped:
            self._raw += char
            self._held = self._held[1:]
            return True
        if char == "]" and self._syntax.is_array:
            self._leave(1)
            return True
        is_name = self._syntax.is_array and bool(self._syntax.opening) and char.isalpha()
        if char == "{" or is_name:
            self._scanner = CallScanner(self._names)
            self._has_begun = False
            self._mode = _Mode.CALL
            return True
        self._give_up()
        return True

    def _read_call(self) -> bool:
        scanner = self._scanner
        assert scanner is not None
        text, self._held = self._held, ""
        rest = scanner.push(text)
        self._raw += text[: len(text) - len(rest)]
        if scanner.name is not None and scanner.state is not ScanState.BROKEN:
            self._tell(scanner)
        self._held = rest
        if scanner.state is ScanState.OPEN:
            return False
        if scanner.state is ScanState.BROKEN and not self._has_begun:
            self._give_up()
        else:
            self._raw = ""
            self._mode = _Mode.BETWEEN
        return True

    def _tell(self, scanner: CallScanner) -> None:
        assert scanner.name is not None
        if not self._has_begun:
            self._has_begun = True
            call_id = _call_id(self._syntax.id_length)
            self._pieces.append(CallPiece(self._num_calls, call_id, scanner.name))
            self._num_calls += 1
        if arguments := scanner.taken_arguments():
            self._pieces.append(ArgumentsPiece(self._num_calls - 1, arguments))

    def _leave(self, num_chars: int) -> None:
        """Back to text behind the end of calls."""
        if self._num_calls == 0:
            self._content(self._raw + self._held[:num_chars])
        self._raw = ""
        self._held = self._held[num_chars:].lstrip()
        self._mode = _Mode.TEXT

    def _give_up(self) -> None:
        """This is no call: it was text all along."""
        self._content(self._raw.lstrip() if self._num_calls else self._raw)
        self._raw = ""
        self._mode = _Mode.TEXT
        if self._held and self._syntax.opening and self._held.startswith(self._syntax.opening):
            return
        # At least one character is text, or the same place would be tried again.
        self._content(self._held[:1])
        self._held = self._held[1:]

    def _content(self, text: str) -> None:
        if not text:
            return
        if self._pieces and isinstance(last := self._pieces[-1], ContentPiece):
            self._pieces[-1] = ContentPiece(last.text + text)
        else:
            self._pieces.append(ContentPiece(text))


def _call_id(length: int) -> str:
    """`call_...`, or letters and digits alone where the family's template wants few."""
    if length < 16:
        return secrets.token_hex(length)[:length]
    return "call_" + secrets.token_hex(12)


def _open_prefix(text: str, opening: str) -> int:
    """Length of the longest end of `text` that begins `opening`."""
    longest = min(len(text), max(0, len(opening) - 1))
    return next((n for n in range(longest, 0, -1) if opening.startswith(text[-n:])), 0)
