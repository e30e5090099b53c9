"""How the server's process ends.

Drained on a signal; with an error when the engine is dead; at once when a step hangs."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, Literal, NoReturn

import uvicorn
from starlette.types import ASGIApp

from server.api.access.drain import Drain
from server.api.access.protocol import ConnectionLimits, guarded_protocol
from server.core.errors import EngineDeadError
from server.forced_end import ForcedEnd, stack_of

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 2.0
"""For the last bytes of answers that were ended early."""

_CONNECTION_SECONDS = 3
"""For connections to close, once their answers have ended."""

_ENDING_SECONDS = 10.0
"""Behind `drain_seconds`: after that the process ends as it is. Covers the two above."""

_HURRY_SECONDS = 5.0
"""What a second signal leaves of all that."""

_SOCKET_SECONDS = 0.2
"""For the event loop to hand them to the sockets."""


def run_on_fast_loop(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run` on uvloop, where there is one: on Windows it is asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def uvicorn_config(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    limits: ConnectionLimits,
    lifespan: Literal["auto", "off"] = "auto",
) -> uvicorn.Config:
    """How the HTTP server runs: httptools with bounds, and nothing that we don't use.

    The loop is whichever runs already: see `run_on_fast_loop`.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        loop="none",
        lifespan=lifespan,
        http=guarded_protocol(limits),
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_CONNECTION_SECONDS,
    )


class DrainingServer(uvicorn.Server):
    """uvicorn, but a signal first drains: the socket stays open and refuses, running requests end.

    After `drain_seconds` `abort_all` ends what is left. A second signal ends it at once. A SIGTERM
    that was obeyed ends the process with status 0, not by the signal. Where the event loop doesn't
    come to obey it, the process is ended all the same, `_ENDING_SECONDS` later.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        *,
        drain_seconds: float,
        abort_all: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._abort_all = abort_all
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain on SIGINT and SIGTERM; end at once on a second one."""
        self._loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        forced = ForcedEnd(
            grace_seconds=self._drain_seconds + _ENDING_SECONDS, hurry_seconds=_HURRY_SECONDS
        )
        try:
            with forced.watching():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal handler. Called between two bytecodes, so it leaves the work to the loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._obey)

    def _obey(self) -> None:
        if self._draining is not None:
            logger.warning("told to stop again: ending now")
            self._abort_all()
            self.should_exit = True
        else:
            self._draining = asyncio.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        self._drain.begin()
        logger.info(
            "told to stop: %d requests may finish within %g s",
            self._drain.num_inside,
            self._drain_seconds,
        )
        if not await self._drain.wait_empty(self._drain_seconds):
            logger.warning("%d requests are cut off", self._drain.num_inside)
            self._abort_all()
            await self._drain.wait_empty(_FLUSH_SECONDS)
        self.should_exit = True


async def serve_until_dead(
    server: DrainingServer,
    wait_dead: Callable[[], Awaitable[None]],
    serving: Awaitable[None] | None = None,
) -> None:
    """Serve until told to stop, or until the engine is dead; `serving` when it serves already.

    Raises `EngineDeadError` in the latter case, for a process status that a supervisor sees.
    """

    async def watch() -> None:
        await wait_dead()
        logger.critical("the engine is dead; the process ends for its supervisor to start it again")
        server.should_exit = True

    watching = asyncio.create_task(watch())
    try:
        await (server.serve() if serving is None else serving)
        if watching.done():
            watching.result()
            raise EngineDeadError("the engine died; the log above says of what")
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def end_blocked_process(loop_thread_id: int, *, loop_timeout_seconds: float) -> NoReturn:
    """End the process with status 1 from another thread, when the event loop doesn't run.

    It can tell nobody: only the loop writes to sockets.
    """
    try:
        logger.critical(
            "the event loop hasn't run for %g s (setting loop_timeout_seconds), so nobody is "
            "answered; the process ends with status 1 for its supervisor to start it again. The "
            "loop is in:\n%s",
            loop_timeout_seconds,
            stack_of(loop_thread_id),
        )
        logging.shutdown()
    finally:
        os._exit(1)


def end_hung_process(
    give_up: Callable[[str], str],
    drain: Drain,
    loop: asyncio.AbstractEventLoop,
    *,
    step_timeout_seconds: float,
) -> NoReturn:
    """End the process with status 1 from another thread, when a step hangs.

    Nothing can be waited for that may wait for the step: no thread, no destructor of a library. So
    open requests are told (`give_up` fails them and returns where the step is), and that is all.
    """

    async def let_go() -> None:
        drain.begin()
        await drain.wait_empty(_FLUSH_SECONDS)
        await asyncio.sleep(_SOCKET_SECONDS)

    try:
        where = give_up("a step of the engine hung, so the server ends")
        logger.critical(
            "a step has run for %g s (setting step_timeout_seconds) and can't be interrupted; the "
            "process ends with status 1 for its supervisor to start it again. The step is in:\n%s",
            step_timeout_seconds,
            where,
        )
        with contextlib.suppress(TimeoutError):
            # The loop may be blocked too.
            told = asyncio.run_coroutine_threadsafe(let_go(), loop)
            told.result(2 * (_FLUSH_SECONDS + _SOCKET_SECONDS))
        logging.shutdown()
    finally:
        os._exit(1)
