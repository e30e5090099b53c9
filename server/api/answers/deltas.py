"""The engine's deltas, as one HTTP request needs them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace

from server.api.answers.format import CachedPrompts, WholeChoice
from server.api.errors import GenerationAbortedError, GenerationFailedError
from server.core.errors import RequestError
from server.core.logprobs import Scores, joined
from server.core.ports import GenerationEngine
from server.core.request import FinishReason, GenerationDelta, GenerationRequest

Deltas = AsyncIterator[GenerationDelta]

_MAX_MERGED = 256


def generate_all(engine: GenerationEngine, requests: Sequence[GenerationRequest]) -> Deltas:
    """The deltas of all `requests` as they come, the choices numbered through.

    Close it with `close_deltas`: that aborts what still runs. The first error of one request ends
    all of them.
    """
    if len(requests) == 1:
        return engine.generate(requests[0])
    return _merged(engine, requests)


async def close_deltas(deltas: Deltas) -> None:
    """Close the iterator now rather than when it is collected; the engine aborts what is left."""
    if isinstance(deltas, AsyncGenerator):
        await deltas.aclose()


def check_delta(delta: GenerationDelta) -> None:
    """Raises when this delta ends its choice in a way that is no answer."""
    if delta.finish_reason is FinishReason.ERROR:
        raise GenerationFailedError(f"the generation failed: {delta.error or 'no reason given'}")
    if delta.finish_reason is FinishReason.REFUSED:
        raise RequestError(
            f"this answer can't be finished: {delta.error}; ask for a simpler shape or other tools"
        )
    if delta.finish_reason is FinishReason.ABORT:
        raise aborted()


class _Choice:
    """One choice as its deltas come."""

    def __init__(self) -> None:
        self._deltas: list[GenerationDelta] = []

    def add(self, delta: GenerationDelta) -> None:
        self._deltas.append(delta)

    @property
    def has_ended(self) -> bool:
        return bool(self._deltas) and self._deltas[-1].finish_reason is not None

    @property
    def whole(self) -> WholeChoice:
        last = self._deltas[-1]
        assert last.finish_reason is not None
        return WholeChoice(
            "".join(delta.text for delta in self._deltas),
            last.finish_reason,
            last.stop_reason,
            sum(delta.num_tokens for delta in self._deltas),
            joined(delta.scores for delta in self._deltas),
        )


async def collect(deltas: Deltas, num_choices: int, cached: CachedPrompts) -> list[WholeChoice]:
    """All choices whole; `cached` hears how they began. Closes `deltas` in any case.

    Raises what the engine raises, and `GenerationFailedError` when a choice has no proper end.
    """
    choices = [_Choice() for _ in range(num_choices)]
    try:
        async for delta in deltas:
            check_delta(delta)
            choices[delta.choice].add(delta)
            cached.note(delta)
    finally:
        await close_deltas(deltas)
    num_open = sum(not choice.has_ended for choice in choices)
    if num_open:
        raise incomplete(num_open, num_choices)
    return [choice.whole for choice in choices]


async def without_answer(deltas: Deltas) -> AsyncGenerator[GenerationDelta]:
    """The deltas of a request for no token at all: the prompt's part, and the end."""
    try:
        async for delta in deltas:
            reason = delta.finish_reason
            if reason in (FinishReason.STOP, FinishReason.LENGTH):
                reason = FinishReason.LENGTH
            yield replace(
                delta,
                text="",
                num_tokens=0,
                scores=Scores(prompt=delta.scores.prompt),
                finish_reason=reason,
                stop_reason=None,
            )
    finally:
        await close_deltas(deltas)


def aborted() -> GenerationAbortedError:
    """The server stops; this answer is cut off."""
    return GenerationAbortedError(
        "the engine stopped before this answer was complete; send the request again"
    )


def incomplete(num_open: int, num_choices: int) -> GenerationFailedError:
    """The engine's deltas ended too early."""
    return GenerationFailedError(
        f"the generation ended with {num_open} of {num_choices} choices unfinished"
    )


async def _merged(
    engine: GenerationEngine, requests: Sequence[GenerationRequest]
) -> AsyncGenerator[GenerationDelta]:
    # Bounded, so that a slow reader is seen by the engine, which bounds what waits for it.
    queue: asyncio.Queue[GenerationDelta | Exception | None] = asyncio.Queue(_MAX_MERGED)

    async def pump(request: GenerationRequest, first_choice: int) -> None:
        deltas = engine.generate(request)
        try:
            async for delta in deltas:
                await queue.put(replace(delta, choice=first_choice + delta.choice))
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - it is raised where the queue is read
            await queue.put(error)
        finally:
            await close_deltas(deltas)

    pumps: list[asyncio.Task[None]] = []
    first_choice = 0
    for request in requests:
        pumps.append(asyncio.create_task(pump(request, first_choice)))
        first_choice += request.num_choices
    try:
        num_open = len(pumps)
        while num_open:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
