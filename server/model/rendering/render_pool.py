"""Chat templates rendered by a few processes, one order each at a time, callers in turn."""

import asyncio
import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from server.core.chat import RenderOrder
from server.core.errors import (
    DeadlineExceededError,
    OverloadedError,
    PromptTooLongError,
    RenderingDownError,
    RequestError,
    SwitchyardError,
)
from server.model.rendering.render_frames import Outcome, Reply, order_body
from server.model.rendering.render_process import RenderProcess

logger = logging.getLogger(__name__)

NUM_PROCESSES = 2
MAX_WAITING_EACH = 64
"""Orders of one caller that may wait."""

_LEAVING_SECONDS = 0.1
"""What a cancelled order may go on for before its process is killed: nearly all have ended by then,
and a new process costs half a second of a core."""

_RETRY_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Job:
    """An order that waits or runs. `answer` is done early when nobody wants it any more."""

    order: RenderOrder
    body: bytes
    caller: str
    answer: asyncio.Future[str]

    def fail(self, error: SwitchyardError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class RenderPool:
    """Implements `ChatRenderer`. Start it on the event loop it is used on, and close it there.

    An order may take `timeout_seconds`, and `memory_mib` beside what the process is made of; then
    its process is killed and another takes its place. Callers take turns, first come first served
    among a caller's own; no caller has all processes at once, so that a template that never ends
    keeps up its own caller and nobody else. New processes compile `warm_template` first.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        memory_mib: int,
        num_processes: int = NUM_PROCESSES,
        warm_template: str = "",
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._memory_mib = memory_mib
        self._max_each = max(1, num_processes - 1)
        self._num_processes = num_processes
        self._warm_template = warm_template
        self._waiting: dict[str, deque[_Job]] = {}
        self._running: Counter[str] = Counter()
        self._has_work = asyncio.Event()
        self._processes: set[RenderProcess] = set()
        self._tending: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> frozenset[int]:
        """Of the processes that are up."""
        return frozenset(process.pid for process in self._processes)

    def start(self) -> None:
        """Begin to start the processes; orders wait for them."""
        self._tending = [asyncio.create_task(self._tend()) for _ in range(self._num_processes)]

    async def close(self) -> None:
        """End the processes, whatever they do; orders fail with `RenderingDownError`."""
        tending, self._tending = self._tending, []
        for task in tending:
            task.cancel()
        await asyncio.gather(*tending, return_exceptions=True)
        self._fail_waiting("the server stops")

    async def render(
        self, order: RenderOrder, *, caller: str, timeout_seconds: float | None
    ) -> str:
        """See `core.ports.ChatRenderer.render`."""
        if not self._tending:
            raise RenderingDownError("no chat template is rendered: the server stops")
        if len(self._waiting.get(caller, ())) >= MAX_WAITING_EACH:
            raise OverloadedError(
                f"{MAX_WAITING_EACH} conversations of this caller wait to be rendered; try later"
            )
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        job = _Job(order, _body(order), caller, answer)
        self._waiting.setdefault(caller, deque()).append(job)
        self._has_work.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"the time for this request was over before {order.owner}'s chat template was "
                "rendered"
            ) from error
        finally:
            self._forget(job)

    def _forget(self, job: _Job) -> None:
        """Take it from the queue, if it is still there."""
        jobs = self._waiting.get(job.caller)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.caller]

    async def _tend(self) -> None:
        """Keep one process up and give it work."""
        while True:
            try:
                process = await RenderProcess.start(self._memory_mib, self._warm_template)
            except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError.
                if self._warm_template:
                    logger.warning("the first template isn't compiled ahead: %r", error)
                    self._warm_template = ""
                    continue
                logger.error("a process for chat templates doesn't start: %r", error)
                if not self._processes:
                    self._fail_waiting("their process doesn't start; the server's log says why")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._processes.add(process)
            try:
                await self._work(process)
            finally:
                self._processes.discard(process)
                await process.end()

    async def _work(self, process: RenderProcess) -> None:
        """Run orders until the process is of no more use."""
        while True:
            job = await self._next()
            if process.has_ended:  # While it was idle: nobody's template did that.
                self._waiting.setdefault(job.caller, deque()).appendleft(job)
                return
            self._running[job.caller] += 1
            try:
                if not await self._run(process, job):
                    return
            finally:
                job.fail(RenderingDownError("no chat template is rendered: the server stops"))
                self._running[job.caller] -= 1
                self._running += Counter()  # drops zeros
                self._has_work.set()

    async def _next(self) -> _Job:
        while (job := self._popped()) is None:
            self._has_work.clear()
            await self._has_work.wait()
        return job

    def _popped(self) -> _Job | None:
        """The next order of the caller whose turn it is."""
        for caller, jobs in self._waiting.items():
            if self._running[caller] < self._max_each:
                job = jobs.popleft()
                del self._waiting[caller]
                if jobs:
                    self._waiting[caller] = jobs  # at the end, behind all others
                return job
        return None

    async def _run(self, process: RenderProcess, job: _Job) -> bool:
        """Whether the process can go on after this order."""
        order, seconds = job.order, self._timeout_seconds
        exchange = asyncio.create_task(
            process.exchange(job.body, max_chars=order.max_chars, seconds=seconds)
        )
        try:
            either: set[asyncio.Future[Any]] = {exchange, job.answer}
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if job.answer.done():
                await asyncio.wait({exchange}, timeout=_LEAVING_SECONDS)
            if not exchange.done():
                job.fail(_failure(order, f"took more than {seconds:g} s and was ended"))
                return False
            try:
                reply = exchange.result()
            except (OSError, EOFError, ValueError) as error:
                how = await process.end()
                logger.warning(
                    "the process of %s's chat template: %s (%r)", order.owner, how, error
                )
                job.fail(_failure(order, f"ended its process ({how})"))
                return False
            self._settle(job, reply)
            return not reply.is_spent
        finally:
            exchange.cancel()

    def _settle(self, job: _Job, reply: Reply) -> None:
        if job.answer.done():
            return
        order = job.order
        if reply.outcome is Outcome.RENDERED:
            job.answer.set_result(reply.text)
        elif reply.outcome is Outcome.OUT_OF_MEMORY:
            job.fail(_failure(order, f"took more than {self._memory_mib} MiB of memory"))
        elif reply.outcome is Outcome.TOO_LONG:
            job.fail(
                PromptTooLongError(
                    f"{order.owner}'s chat template wrote more than {order.max_chars} characters "
                    "for these messages, and no more fit in this model's window: shorten them",
                    "messages",
                )
            )
        else:
            job.fail(
                RequestError(
                    f"{order.owner}'s chat template refuses these messages: {reply.text}",
                    "messages",
                )
            )

    def _fail_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for jobs in waiting.values():
            for job in jobs:
                job.fail(RenderingDownError(f"no chat template is rendered: {why}"))


def _failure(order: RenderOrder, what: str) -> RequestError:
    return RequestError(
        f"{order.owner}'s chat template {what}: send fewer or shorter messages, or the rendered "
        "text to /v1/completions",
        "messages",
    )


def _body(order: RenderOrder) -> bytes:
    try:
        return order_body(order)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the chat template can't be given this: {error}", "messages") from error
