"""Grammars through llguidance: JSON schemas, regular expressions, Lark and GBNF, as token masks."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import llguidance.hf
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from server.core.errors import RequestError
from server.core.grammar import CompiledGrammar, GrammarKind, GrammarSpec

logger = logging.getLogger(__name__)

_MAX_CACHED = 256
_MAX_SHOWN_CHARS = 400
_SECONDS_PER_TOKEN = 0.01
_MAX_OVERDRAWN_SECONDS = 0.5
# Indented or on one line, but no endless white space: a small model may never leave it.
_WHITE_SPACE = r" |\n {0,32}"
_LANGUAGES = {
    GrammarKind.JSON_SCHEMA: "JSON schema",
    GrammarKind.REGEX: "regular expression",
    GrammarKind.LARK: "grammar",
    GrammarKind.GBNF: "grammar",
}


def grammar_tokenizer(
    tokenizer: Any, *, vocab_size: int, eos_token_ids: frozenset[int]
) -> LLTokenizer | None:
    """llguidance's view of a fast tokenizer: the bytes of each token, and which tokens end a text.

    None for a tokenizer that it doesn't understand; the log says why.
    """
    size = max(vocab_size, len(tokenizer))
    try:
        return llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=size, eos_token=sorted(eos_token_ids) or None
        )
    except Exception as error:  # noqa: BLE001 - whatever the library raises, we can do without
        logger.warning("no structured output: llguidance can't read this tokenizer: %s", error)
        return None


class Grammar:
    """A compiled grammar. Implements `core.grammar.CompiledGrammar`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._start = matcher

    def matcher(self) -> "GrammarMatcher":
        """A copy of the start state; takes microseconds."""
        return GrammarMatcher(self._start.deep_copy())


class GrammarMatcher:
    """Follows one sequence. Implements `core.grammar.TokenMatcher`.

    A mask takes microseconds for nearly every grammar, and a second for a few that are a line long
    (`s: s s s | s s | "a"`), while the whole batch waits. So computing time is a budget: each token
    brings some, and a sequence that has spent it has an `error`. `clock` is the computing time of
    this thread in seconds, so that a machine that is busy with others refuses nobody.
    """

    def __init__(self, matcher: LLMatcher, clock: Callable[[], float] = time.thread_time) -> None:
        self._matcher = matcher
        self._clock = clock
        self._overdrawn_seconds = 0.0

    def allowed(self) -> bytes:
        """One bit a token id; leaves Python's lock while it computes."""
        start = self._clock()
        mask = self._matcher.compute_bitmask()
        self._spend(self._clock() - start - _SECONDS_PER_TOKEN)
        return mask

    def accept(self, token_id: int) -> None:
        start = self._clock()
        self._matcher.consume_token(token_id)
        self._spend(self._clock() - start)

    def _spend(self, seconds: float) -> None:
        self._overdrawn_seconds = max(0.0, self._overdrawn_seconds + seconds)

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_stopped()

    @property
    def error(self) -> str:
        if self._matcher.is_error():
            reason = self._matcher.get_error().removesuffix("<non-verbose/>")
            return " ".join(reason.split())[:_MAX_SHOWN_CHARS]
        if self._overdrawn_seconds > _MAX_OVERDRAWN_SECONDS:
            return (
                f"its grammar takes {self._overdrawn_seconds:.2g} s too long to follow, more than "
                f"{_MAX_OVERDRAWN_SECONDS:g} s: it is too ambiguous"
            )
        return ""


class GrammarCache:
    """Compiles grammars once and keeps the last ones. Implements `core.grammar.GrammarCompiler`."""

    def __init__(self, tokenizer: LLTokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._limits = LLParserLimits(verbose_errors=False)
        self._lock = threading.Lock()
        self._cached: OrderedDict[tuple[str, GrammarKind, str], Grammar] = OrderedDict()

    def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """See `core.grammar.GrammarCompiler.compile`. Failures aren't kept."""
        key = (spec.tenant, spec.kind, spec.text)
        with self._lock:
            if (known := self._cached.get(key)) is not None:
                self._cached.move_to_end(key)
                return known
        grammar = self._compile(spec)
        with self._lock:
            self._cached[key] = grammar
            while len(self._cached) > _MAX_CACHED:
                self._cached.popitem(last=False)
        return grammar

    def _compile(self, spec: GrammarSpec) -> Grammar:
        if self._tokenizer is None:
            raise RequestError(
                "this base model's tokenizer can't be constrained (the server's log says why): "
                f"leave {spec.param} out",
                spec.param,
            )
        try:
            text = _as_llguidance(spec)
        except Exception as error:  # the converters raise what they like
            raise _refused(spec, str(error)) from error
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise _refused(spec, matcher.get_error())
        return Grammar(matcher)


def _as_llguidance(spec: GrammarSpec) -> str:
    match spec.kind:
        case GrammarKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(
                spec.text, defaults={"whitespace_pattern": _WHITE_SPACE}
            )
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(spec.text)
        case GrammarKind.GBNF:
            return LLMatcher.grammar_from_lark(any_to_lark(spec.text))
        case GrammarKind.LARK:
            return LLMatcher.grammar_from_lark(spec.text)


def _refused(spec: GrammarSpec, reason: str) -> RequestError:
    shown = " ".join(reason.split())[:_MAX_SHOWN_CHARS]
    return RequestError(
        f"the {_LANGUAGES[spec.kind]} in {spec.param} can't be enforced: {shown}", spec.param
    )
