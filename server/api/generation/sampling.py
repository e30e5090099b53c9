"""From the fields of a request to the engine's sampling parameters."""

from collections.abc import Callable, Iterable

from server.api.requests.generation import GenerationBody
from server.api.requests.side_work import SideWork
from server.api.tool_calls.tool_grammar import Compile
from server.core.errors import RequestError
from server.core.grammar import CompiledGrammar, GrammarCompiler, GrammarSpec
from server.core.logit_rules import NO_RULES, LogitRules
from server.core.logprobs import ScoresAsked
from server.core.model_info import ModelInfo
from server.core.ports import ChatTokenizer
from server.core.request import SamplingParams

_MAX_INLINE_ITEMS = 2048
"""Token ids, and characters of words, that are prepared on the event loop."""


class SamplingFactory:
    """Knows the vocabulary, so that token ids can be checked and words turned into tokens."""

    def __init__(
        self, tokenizer: ChatTokenizer, grammars: GrammarCompiler, info: ModelInfo, side: SideWork
    ) -> None:
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._info = info
        self._side = side

    async def params(
        self,
        body: GenerationBody,
        max_tokens: int,
        *,
        shape: GrammarSpec | None = None,
        scores: ScoresAsked = ScoresAsked(),  # noqa: B008 - frozen
        looser_shape: Callable[[Compile], GrammarSpec] | None = None,
        shows_special_tokens: bool = False,
    ) -> SamplingParams:
        """How the tokens of this request are drawn.

        Compiles `shape` on another thread. Raises `RequestError` for a token id that the model
        doesn't have, a minimum above the maximum, or a shape that can't be enforced.
        """
        self._check_count("logit_bias", len(body.logit_bias))
        self._check_count("allowed_token_ids", len(body.allowed_token_ids or ()))
        self._info.check_token_ids(tuple(map(int, body.logit_bias)), "logit_bias")
        self._info.check_token_ids(body.allowed_token_ids or (), "allowed_token_ids")
        self._info.check_token_ids(body.stop_token_ids, "stop_token_ids")
        if body.min_tokens > max_tokens:
            raise RequestError(
                f"min_tokens is {body.min_tokens}, more than the {max_tokens} tokens that the "
                "answer may have: lower it",
                "min_tokens",
            )
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=body.temperature,
            # No probability at all is the most likely token alone.
            top_p=body.top_p or 1.0,
            top_k=max(0, body.top_k) if body.top_p else 1,
            min_p=body.min_p,
            stop=tuple(body.stop),
            stop_token_ids=frozenset(body.stop_token_ids),
            includes_stop=body.include_stop_str_in_output,
            skips_special_tokens=body.skip_special_tokens and not shows_special_tokens,
            min_tokens=body.min_tokens,
            seed=body.seed,
            ignore_eos=body.ignore_eos,
            logprobs=scores.drawn,
            prompt_logprobs=scores.prompt,
            rules=await self._shared_rules(body),
            grammar=None if shape is None else await self.compiled(shape, looser_shape),
        )

    async def compiled(
        self, shape: GrammarSpec, looser_shape: Callable[[Compile], GrammarSpec] | None = None
    ) -> CompiledGrammar:
        """The grammar of `shape`, or else of the looser one; the event loop goes on meanwhile."""

        def compiled() -> CompiledGrammar:
            try:
                return self._grammars.compile(shape)
            except RequestError:
                if looser_shape is None:
                    raise
                return self._grammars.compile(looser_shape(self._grammars.compile))

        return await self._side.run(compiled)

    async def _shared_rules(self, body: GenerationBody) -> LogitRules | None:
        num_chars = sum(map(len, body.bad_words))
        if num_chars + len(body.logit_bias) + len(body.allowed_token_ids or ()) < _MAX_INLINE_ITEMS:
            return self._rules(body)
        return await self._side.run(lambda: self._rules(body))

    def _rules(self, body: GenerationBody) -> LogitRules | None:
        ending = set(body.stop_token_ids)
        if not body.ignore_eos:
            ending |= self._tokenizer.eos_token_ids
        allowed = body.allowed_token_ids
        rules = LogitRules(
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            logit_bias=tuple((int(token), bias) for token, bias in body.logit_bias.items()),
            allowed_token_ids=None if allowed is None else tuple(sorted(set(allowed))),
            banned_sequences=tuple(self._banned(body.bad_words)),
            withheld_token_ids=tuple(sorted(filter(self._has, ending))) if body.min_tokens else (),
        )
        return None if rules == NO_RULES else rules

    def _banned(self, words: Iterable[str]) -> Iterable[tuple[int, ...]]:
        """A word's tokens at the beginning of a text and after a space, if they can be drawn."""
        seen: set[tuple[int, ...]] = set()
        for word in words:
            bare = word.lstrip() or word
            for text in (bare, f" {bare}"):
                token_ids = self._tokenizer.encode(text, adds_special_tokens=False)
                if token_ids and token_ids not in seen and all(map(self._has, token_ids)):
                    seen.add(token_ids)
                    yield token_ids

    def _has(self, token_id: int) -> bool:
        """Whether the model can draw a token of the tokenizer's."""
        return token_id < self._info.vocab_size

    def _check_count(self, param: str, count: int) -> None:
        size = self._info.vocab_size
        if count > size:
            raise RequestError(
                f"{param} has {count} entries; this model has {size} tokens: name each once", param
            )
