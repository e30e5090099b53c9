"""An engine that types its answers byte by byte, and remembers what happened to each request."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

from server.core.logprobs import NO_SCORES, Scores, TokenLogprobs
from server.core.request import FinishReason, GenerationDelta, GenerationRequest
from server.engine.answer_text import AnswerText
from server.scheduling.plan import SequenceUpdate
from tests.fakes.api_tokenizer import END_OF_TURN, FakeTokenizer

Answer = Callable[[GenerationRequest, int], str]


def who_answers(request: GenerationRequest, choice: int) -> str:
    """The default answer: what serves the request, and which choice this is."""
    return f"{request.stack.expression or 'base'} answers #{choice}"


class FakeEngine:
    """Implements `GenerationEngine`.

    `error` is raised instead of the first delta, after `waits` seconds. With `hang_after` the
    deltas stop coming after that many, until somebody closes the iterator. With `fail_after` a
    choice fails there.
    """

    def __init__(
        self,
        answer: Answer = who_answers,
        *,
        error: Exception | None = None,
        waits: float = 0.0,
        hang_after: int | None = None,
        fail_after: int | None = None,
        fail_reason: FinishReason = FinishReason.ERROR,
        crash_after: int | None = None,
    ) -> None:
        self.is_ready = True
        self.requests: list[GenerationRequest] = []
        self.num_running = 0
        self.completed: list[str] = []
        self.aborted: list[str] = []
        self.has_aborted = threading.Event()
        self.has_started = threading.Event()
        self._answer = answer
        self._error = error
        self._waits = waits
        self._hang_after = hang_after
        self._fail_after = fail_after
        self._fail_reason = fail_reason
        self._crash_after = crash_after

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationDelta]:
        self.requests.append(request)
        if self._error is not None:
            await asyncio.sleep(self._waits)
            raise self._error
        self.num_running += 1
        self.has_started.set()
        is_complete = False
        try:
            for count, delta in enumerate(self._deltas(request)):
                if count == self._hang_after:
                    await asyncio.Event().wait()
                if count == self._crash_after:
                    raise RuntimeError("a bug in the engine")
                if count == self._fail_after:
                    yield GenerationDelta(0, "", 0, self._fail_reason, "the step failed")
                    return
                yield delta
                await asyncio.sleep(0)
            is_complete = True
        finally:
            self.num_running -= 1
            (self.completed if is_complete else self.aborted).append(request.request_id)
            if not is_complete:
                self.has_aborted.set()

    def _deltas(self, request: GenerationRequest) -> Iterator[GenerationDelta]:
        """The choices' deltas, in turns."""
        open_choices = [self._choice(request, i) for i in range(request.num_choices)]
        while open_choices:
            for choice in list(open_choices):
                delta = next(choice, None)
                if delta is None:
                    open_choices.remove(choice)
                else:
                    yield delta

    def _choice(self, request: GenerationRequest, choice: int) -> Iterator[GenerationDelta]:
        tokenizer, sampling = FakeTokenizer(), request.sampling
        if sampling.prompt_logprobs is not None:
            scores = [
                made_up(token, sampling.prompt_logprobs) for token in request.prompt_token_ids
            ]
            yield GenerationDelta(choice, "", 0, scores=Scores(prompt=tuple(scores[1:])))
        text = AnswerText(tokenizer.stream(), sampling)
        tokens = (*tokenizer.encode(self._answer(request, choice)), END_OF_TURN)
        limit = sampling.max_tokens
        for count, token in enumerate(tokens[:limit], 1):
            is_end = token == END_OF_TURN or token in sampling.stop_token_ids
            reason = FinishReason.LENGTH if count == limit else None
            is_scored = sampling.logprobs is not None
            told = Scores((made_up(token, sampling.logprobs or 0),)) if is_scored else NO_SCORES
            piece = text.push(
                SequenceUpdate(
                    choice,
                    token,
                    FinishReason.STOP if is_end else reason,
                    is_end_token=is_end,
                    scores=told,
                )
            )
            yield GenerationDelta(
                choice, piece.text, 1, piece.finish_reason, None, piece.stop_reason, piece.scores
            )
            if piece.finish_reason is not None:
                return


def made_up(token_id: int, num_top: int) -> TokenLogprobs:
    """Log probabilities that say which token they belong to."""
    logprob = -token_id / 100
    others = tuple((i, logprob - 1 - i) for i in range(num_top - 1))
    top = ((token_id, logprob), *others) if num_top else ()
    return TokenLogprobs(token_id, logprob, 1, top)
