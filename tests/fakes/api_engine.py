"""An engine that types its answers byte by byte, and remembers what happened to each request."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

from server.core.request import FinishReason, GenerationDelta, GenerationRequest
from server.engine.stop import StopMatcher
from tests.fakes.api_tokenizer import FakeTokenizer

Answer = Callable[[GenerationRequest, int], str]


def who_answers(request: GenerationRequest, choice: int) -> str:
    """The default answer: what serves the request, and which choice this is."""
    return f"{request.stack.expression or 'base'} answers #{choice}"


class FakeEngine:
    """Implements `GenerationEngine`.

    `error` is raised instead of the first delta. With `hang_after` the deltas stop coming after
    that many, until somebody closes the iterator. With `fail_after` a choice fails there.
    """

    def __init__(
        self,
        answer: Answer = who_answers,
        *,
        error: Exception | None = None,
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
        self._hang_after = hang_after
        self._fail_after = fail_after
        self._fail_reason = fail_reason
        self._crash_after = crash_after

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationDelta]:
        self.requests.append(request)
        if self._error is not None:
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
        tokenizer = FakeTokenizer()
        text, stop = tokenizer.stream(), StopMatcher(request.sampling.stop)
        tokens = tokenizer.encode(self._answer(request, choice))
        limit = request.sampling.max_tokens
        for count, token in enumerate(tokens[:limit], 1):
            piece, is_stopped = stop.push(text.push(token))
            if is_stopped:
                yield GenerationDelta(choice, piece, 1, FinishReason.STOP)
                return
            if count == limit:
                rest = piece + stop.push(text.flush())[0] + stop.flush()
                yield GenerationDelta(choice, rest, 1, FinishReason.LENGTH)
                return
            yield GenerationDelta(choice, piece, 1)
        yield GenerationDelta(choice, stop.flush(), 1, FinishReason.STOP)
