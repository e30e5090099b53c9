"""One reader, any order of putting and waiting, nothing lost."""

import asyncio

import pytest

from server.core.request import GenerationDelta
from server.engine.delta_queue import DeltaQueue


def delta(text: str) -> GenerationDelta:
    return GenerationDelta(0, text, 1)


async def test_items_come_in_order_whoever_was_first() -> None:
    queue = DeltaQueue()
    queue.put(delta("a"))
    queue.put(delta("b"))
    assert (await queue.get(), await queue.get()) == (delta("a"), delta("b"))
    reading = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not reading.done()
    queue.put(delta("c"))
    queue.put(delta("d"))
    assert await reading == delta("c")
    assert len(queue) == 1


async def test_a_reader_that_gives_up_loses_nothing() -> None:
    queue = DeltaQueue()
    reading = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    queue.put(delta("a"))
    assert await queue.get() == delta("a")
