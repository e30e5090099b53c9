"""The engine as one caller may use it: its share, its token rate, its deadline."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from server.api.access.callers import Caller, CurrentCaller
from server.api.access.deadlines import CurrentDeadline
from server.api.access.rate_limits import RateLimits
from server.api.request_facts import CURRENT_FACTS
from server.core.ports import ChatTokenizer, GenerationEngine
from server.core.request import GenerationDelta, GenerationRequest

logger = logging.getLogger(__name__)


class GuardedEngine:
    """Implements `GenerationEngine` over another one, for whoever asks.

    Says to the engine whose request it is and until when its answer is wanted. Cached prompts are
    each key's own, unless `shares_prefixes`; a request's own salt divides them further. With a
    `prompt_logger` (a tokenizer to read prompts with) prompts go into the log.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        current: CurrentCaller,
        deadline: CurrentDeadline,
        limits: RateLimits,
        *,
        shares_prefixes: bool = False,
        prompt_logger: ChatTokenizer | None = None,
    ) -> None:
        self._engine = engine
        self._current = current
        self._deadline = deadline
        self._limits = limits
        self._shares_prefixes = shares_prefixes
        self._prompt_logger = prompt_logger

    @property
    def is_ready(self) -> bool:
        return self._engine.is_ready

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationDelta]:
        """See `GenerationEngine.generate`. Raises for missing rights and for rates."""
        caller, facts = self._current.get(), CURRENT_FACTS.get()
        caller.check_stack(request.stack)
        self._limits.take_prompt(caller, request.prompt_cost)
        if self._prompt_logger is not None:
            self._log_prompt(self._prompt_logger, request)
        owned = replace(
            request,
            tenant=caller.key_id,
            cache_salt=self._cache_salt(caller, request.cache_salt),
            weight=caller.weight,
            timeout_seconds=self._deadline.remaining_seconds(),
        )
        if facts is not None:
            facts.note_prompt(len(request.prompt_token_ids))
        deltas = self._engine.generate(owned)
        try:
            async for delta in self._counted(deltas, caller):
                if facts is not None:
                    facts.note_tokens(delta.num_tokens)
                yield delta
        finally:
            if isinstance(deltas, AsyncGenerator):
                await deltas.aclose()

    def _cache_salt(self, caller: Caller, salt: str) -> str:
        """Different for different keys and for different salts: no key id has a '/'."""
        owner = "" if self._shares_prefixes else caller.key_id
        return f"{owner}/{salt}" if owner or salt else ""

    def _log_prompt(self, tokenizer: ChatTokenizer, request: GenerationRequest) -> None:
        prompt = tokenizer.decode(request.prompt_token_ids)
        logger.info("prompt of %s", request.request_id, extra={"prompt": prompt})

    def _counted(
        self, deltas: AsyncIterator[GenerationDelta], caller: Caller
    ) -> AsyncIterator[GenerationDelta]:
        if caller.tokens_per_minute is None:
            return deltas
        return self._counting(deltas, caller)

    async def _counting(
        self, deltas: AsyncIterator[GenerationDelta], caller: Caller
    ) -> AsyncIterator[GenerationDelta]:
        async for delta in deltas:
            self._limits.take_answer(caller, delta.num_tokens)
            yield delta
