"""The grammar compiler as one caller may use it."""

from dataclasses import replace

from server.api.access.callers import CurrentCaller
from server.core.grammar import CompiledGrammar, GrammarCompiler, GrammarSpec


class GuardedGrammars:
    """Implements `GrammarCompiler` over another one, for whoever asks.

    Each key finds what it compiled itself: a schema that comes at once would say that another key
    uses it too.
    """

    def __init__(self, grammars: GrammarCompiler, current: CurrentCaller) -> None:
        self._grammars = grammars
        self._current = current

    def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """See `GrammarCompiler.compile`."""
        return self._grammars.compile(replace(spec, tenant=self._current.get().key_id))
