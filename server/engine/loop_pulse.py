"""Whether the event loop still runs: what a watchdog on another thread asks it."""

import asyncio
import contextlib
import time
from collections.abc import Callable


class LoopPulse:
    """Asks the loop for a sign of life, one at a time. Used by one other thread.

    `clock` gives seconds.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._asked_at: float | None = None

    def missing_since(self) -> float | None:
        """When the sign was asked for that hasn't come; None, and a new one asked for, when it has.

        A closed loop owes nobody a sign.
        """
        if (asked_at := self._asked_at) is not None:
            return asked_at
        self._asked_at = self._clock()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answer)
            return None
        self._asked_at = None
        return None

    def _answer(self) -> None:
        self._asked_at = None
