"""An answer as an event stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Message, Receive, Scope, Send

from server.api.answers.deltas import Deltas, aborted, check_delta, close_deltas, incomplete
from server.api.answers.format import AnswerFormat, CachedPrompts, Usage
from server.api.errors import note_refusal
from server.api.requests.disconnect import await_while_connected, cancel
from server.api.settings import ApiSettings
from server.core.errors import SwitchyardError
from server.core.request import GenerationDelta

logger = logging.getLogger(__name__)


class AnswerStream:
    """Deltas in, server-sent events out. Owns the deltas: `close` it."""

    def __init__(
        self,
        deltas: Deltas,
        answer: AnswerFormat,
        *,
        num_choices: int,
        num_prompt_tokens: int,
        cached: CachedPrompts,
    ) -> None:
        self._deltas = deltas
        self._answer = answer
        self._num_choices = num_choices
        self._num_open = num_choices
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0
        self._cached = cached
        self._first = asyncio.create_task(self._next())

    async def open(self, receive: Receive, patience_seconds: float) -> None:
        """Wait a while for the first delta, so that an early error is still an HTTP status.

        Raises what the engine raised, and `ClientGoneError`; the stream is closed then.
        """
        try:
            await await_while_connected(self._first, receive, patience_seconds)
            if self._first.done() and (delta := self._first.result()) is not None:
                check_delta(delta)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the generation, if it hasn't ended. Harmless when called again."""
        await cancel(self._first)
        if not self._first.cancelled():
            self._first.exception()  # Whoever awaits the events has it; nobody else needs to.
        await close_deltas(self._deltas)

    async def events(self) -> AsyncIterator[bytes]:
        """The whole stream up to `[DONE]`; an error is told as an event of its own."""
        # What can go out together does: each part costs a write to the socket.
        held = self._answer.opening(self._num_choices)
        try:
            if held and not self._first.done():
                yield held
                held = b""
            delta = await self._first
            while delta is not None:
                held += self._chunk(delta)
                if held and self._num_open:
                    yield held
                    held = b""
                delta = await self._next()
            if self._num_open:
                raise incomplete(self._num_open, self._num_choices)
            usage = Usage(self._num_prompt_tokens, self._num_tokens, self._cached.num_tokens)
            held += self._answer.closing(usage)
        except SwitchyardError as error:
            note_refusal(error)
            held += self._answer.error(error)
        except Exception as error:
            logger.exception("a stream broke off")
            note_refusal(error)
            held += self._answer.error(error)
        yield held + self._answer.end

    def _chunk(self, delta: GenerationDelta) -> bytes:
        check_delta(delta)
        self._num_tokens += delta.num_tokens
        if delta.beginning is not None:
            self._cached.note(delta)
        if delta.finish_reason is not None:
            self._num_open -= 1
        return self._answer.delta(delta)

    def cut_off(self) -> bytes:
        """What ends a stream that the server doesn't finish."""
        note_refusal(aborted())
        return self._answer.error(aborted()) + self._answer.end

    async def _next(self) -> GenerationDelta | None:
        try:
            return await self._deltas.__anext__()
        except StopAsyncIteration:
            return None


class StreamResponse(EventSourceResponse):
    """Sends an `AnswerStream` and closes it however the exchange ends."""

    def __init__(
        self, stream: AnswerStream, *, headers: Mapping[str, str], settings: ApiSettings
    ) -> None:
        super().__init__(
            stream.events(),
            headers=headers,
            sep="\n",
            ping=settings.keep_alive_seconds,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
            shutdown_grace_period=settings.shutdown_grace_seconds,
        )
        self._stream = stream

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # The library enters a cancel scope here for each chunk; without `send_timeout` it can't
        # fire, and it is a quarter of what a token costs on the event loop.
        await send(message)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
            # Only the end of the shutdown's grace leaves a response active; its client must know.
            if self.active:
                body = self._stream.cut_off()
                await send({"type": "http.response.body", "body": body, "more_body": False})
        finally:
            await self._stream.close()
