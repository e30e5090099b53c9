"""A grammar compiler that remembers what it was asked for and refuses what is marked as bad."""

from server.core.errors import RequestError
from server.core.grammar import GrammarSpec


class FakeGrammar:
    """Implements `CompiledGrammar` for engines that don't follow it."""

    def __init__(self, spec: GrammarSpec) -> None:
        self.spec = spec

    def matcher(self) -> "FakeMatcher":
        return FakeMatcher()


class FakeMatcher:
    """Implements `TokenMatcher`; everything is allowed."""

    error = ""
    is_complete = False

    def allowed(self) -> bytes:
        return b"\xff" * 64

    def accept(self, token_id: int) -> None:
        pass


class FakeGrammars:
    """Implements `GrammarCompiler`. A text with `nonsense` in it can't be compiled."""

    def __init__(self) -> None:
        self.specs: list[GrammarSpec] = []

    def compile(self, spec: GrammarSpec) -> FakeGrammar:
        self.specs.append(spec)
        if "nonsense" in spec.text:
            raise RequestError(f"{spec.param} can't be enforced: nonsense", spec.param)
        return FakeGrammar(spec)
