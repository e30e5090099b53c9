"""Stopping without breaking anything off: nothing new comes in, what runs may finish."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.access.route_table import ROUTES
from server.api.errors import DrainingError

_ALWAYS_OPEN = frozenset(route.path for route in ROUTES if route.is_always_open)


class Drain:
    """Counts the requests inside; after `begin` it lets no more in. Belongs to one event loop.

    `retry_after_seconds` is what refused clients are told.
    """

    def __init__(self, retry_after_seconds: float = 5.0) -> None:
        self._retry_after_seconds = retry_after_seconds
        self._num_inside = 0
        self._is_draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_inside(self) -> int:
        return self._num_inside

    def begin(self) -> None:
        """Let nothing new in from now on."""
        self._is_draining = True

    @contextmanager
    def entered(self, path: str) -> Iterator[None]:
        """Around one request. Raises `DrainingError` unless it may come in."""
        if path in _ALWAYS_OPEN:
            yield
            return
        if self._is_draining:
            raise DrainingError(
                "this server is stopping and takes no new requests; send it to another one",
                self._retry_after_seconds,
            )
        self._num_inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._num_inside -= 1
            if not self._num_inside:
                self._empty.set()

    async def wait_empty(self, timeout_seconds: float) -> bool:
        """Wait until nobody is inside; False when that takes longer than `timeout_seconds`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
