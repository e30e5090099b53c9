"""What an answer must look like, and the Protocols of what enforces it token by token."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class GrammarKind(Enum):
    """The languages that a shape can be described in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"
    GBNF = "gbnf"


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A shape in one of the languages. `param` is the request field that it came from.

    What was compiled for one `tenant` is kept for that one: how long it takes tells nobody else.
    """

    kind: GrammarKind
    text: str
    param: str = "response_format"
    tenant: str = ""


class TokenMatcher(Protocol):
    """Follows one sequence through a grammar. Used by one thread at a time."""

    def allowed(self) -> bytes:
        """One bit for each token id, lowest first: the tokens that may come next."""
        ...

    def accept(self, token_id: int) -> None:
        """Move on by one drawn token. End-of-turn tokens are accepted where the shape may end."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can follow."""
        ...

    @property
    def error(self) -> str:
        """Why the matcher can't go on (a limit of the parser); empty while it can."""
        ...


class CompiledGrammar(Protocol):
    """A grammar that is ready for use, shared by all requests that ask for it."""

    def matcher(self) -> TokenMatcher:
        """A new matcher at the beginning of the text."""
        ...


class GrammarCompiler(Protocol):
    """Turns specs into grammars. Safe to use from several threads."""

    def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """Takes milliseconds for most, seconds for the worst: keep it off the event loop.

        Raises `RequestError` that says what is wrong with the spec.
        """
        ...
