"""What a tool parser makes of an answer's text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ContentPiece:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """The beginning of call number `index`: its function is known."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """More of the JSON text of call number `index`'s arguments."""

    index: int
    text: str


Piece = ContentPiece | CallPiece | ArgumentsPiece


class ToolParser(Protocol):
    """Reads one choice's text as it comes. Made for one choice."""

    def push(self, text: str) -> Sequence[Piece]:
        """What is certain by now."""
        ...

    def finish(self) -> Sequence[Piece]:
        """What was held back, once nothing more comes."""
        ...


@dataclass(frozen=True, slots=True)
class WholeCall:
    """One call, whole."""

    call_id: str
    name: str
    arguments: str


def parse_whole(parser: ToolParser, text: str) -> tuple[str, tuple[WholeCall, ...]]:
    """The content and the calls of a whole answer."""
    content: list[str] = []
    begun: dict[int, CallPiece] = {}
    arguments: dict[int, list[str]] = {}
    for piece in (*parser.push(text), *parser.finish()):
        match piece:
            case ContentPiece(more):
                content.append(more)
            case CallPiece(index):
                begun[index] = piece
                arguments[index] = []
            case ArgumentsPiece(index, more):
                arguments[index].append(more)
    calls = tuple(
        WholeCall(call.call_id, call.name, "".join(arguments[index]))
        for index, call in sorted(begun.items())
    )
    return "".join(content), calls
