"""What the engine has for one caller and the caller hasn't read yet."""

import asyncio
from collections import deque

from server.core.errors import SwitchyardError
from server.core.request import GenerationDelta

Item = GenerationDelta | SwitchyardError


class DeltaQueue:
    """Unbounded, for one reader, on one event loop: `asyncio.Queue` with nothing to wait for but
    the next item, at a third of its price."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._reader: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Append, and wake the reader if it waits."""
        self._items.append(item)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def get(self) -> Item:
        """The next item, in order. One reader at a time."""
        while not self._items:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._items.popleft()
