"""Work that takes long enough to be felt, on a few threads beside the event loop."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel

from adapters.base.host_memory import return_freed_memory
from server.api.requests.body_process import BodyProcess
from server.core.errors import OverloadedError

_NUM_THREADS = 2
_MAX_WAITING = 64
_TRIMMED_FROM_BYTES = 1024 * 1024

Result = TypeVar("Result")
Body = TypeVar("Body", bound=BaseModel)


class SideWork:
    """A bounded pool. Who stops waiting has the work dropped, if it hasn't begun.

    One for all requests: what one client sends takes no thread of the engine's or the loaders'.
    """

    def __init__(self, num_threads: int = _NUM_THREADS, max_waiting: int = _MAX_WAITING) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="side-work")
        self._limit = num_threads + max_waiting
        self._num_pending = 0
        self._bodies = BodyProcess()

    @property
    def num_pending(self) -> int:
        """Callers that wait."""
        return self._num_pending

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns. Raises what it raises, and `OverloadedError` for a full pool."""
        if self._num_pending >= self._limit:
            raise OverloadedError(
                f"{self._num_pending} large requests are being read, of at most {self._limit}; "
                "try again in a moment"
            )
        self._num_pending += 1
        try:
            # With the caller and its deadline, as the loop has them.
            inside = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, inside.run, work)
        finally:
            self._num_pending -= 1

    async def parse(self, schema: type[Body], content: bytes) -> Body:
        """See `BodyProcess.parse`; the memory of a large body is given back."""

        def parse() -> Body:
            try:
                return self._bodies.parse(schema, content)
            finally:
                if len(content) >= _TRIMMED_FROM_BYTES:
                    return_freed_memory()

        return await self.run(parse)

    def close(self) -> None:
        """End the threads and the process."""
        self._bodies.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
