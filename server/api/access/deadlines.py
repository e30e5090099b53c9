"""Until when an answer is wanted: the server's own limit, or the client's shorter one."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from server.core.errors import RequestError

HEADER = "x-request-timeout"
"""Seconds that the client gives the whole answer."""


class CurrentDeadline:
    """The deadline of the request that the running task belongs to.

    `default_seconds` is the server's own limit, None for none. No client gets more than that.
    """

    def __init__(
        self, default_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._default_seconds = default_seconds
        self._clock = clock
        self._variable: ContextVar[float | None] = ContextVar("deadline", default=None)

    @contextmanager
    def begun(self, header: str | None) -> Iterator[None]:
        """Around one request. Raises `RequestError` for a header that is no time."""
        seconds = self._seconds(header)
        deadline = None if seconds is None else self._clock() + seconds
        token = self._variable.set(deadline)
        try:
            yield
        finally:
            self._variable.reset(token)

    def remaining_seconds(self) -> float | None:
        """Seconds left, at least 0; None without a deadline."""
        deadline = self._variable.get()
        return None if deadline is None else max(0.0, deadline - self._clock())

    def _seconds(self, header: str | None) -> float | None:
        if header is None:
            return self._default_seconds
        try:
            seconds = float(header)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise RequestError(
                f"{HEADER} is {header[:40]!r}; it must be a positive number of seconds", HEADER
            )
        return min(seconds, self._default_seconds or math.inf)
