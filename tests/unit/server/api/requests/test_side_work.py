"""Large bodies in a process of their own, and a pool that drops what nobody waits for."""

import asyncio
import threading

import pytest

from server.api.access.guard import BodyBytes
from server.api.requests.body_process import BodyProcess
from server.api.requests.side_work import SideWork
from server.api.requests.tokens import DetokenizeBody
from server.core.errors import OverloadedError, RequestError


async def test_queued_work_is_dropped_with_its_caller() -> None:
    side, gate, ran = SideWork(num_threads=1), threading.Event(), []
    first = asyncio.create_task(side.run(gate.wait))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(side.run(lambda: ran.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    gate.set()
    assert await first
    await side.run(lambda: None)
    assert ran == []
    assert side.num_pending == 0
    side.close()


async def test_a_full_pool_refuses() -> None:
    side, gate = SideWork(num_threads=1, max_waiting=1), threading.Event()
    waiting = [asyncio.create_task(side.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await side.run(lambda: None)
    gate.set()
    await asyncio.gather(*waiting)
    side.close()


def test_a_body_process_parses_refuses_and_begins_again() -> None:
    bodies = BodyProcess()
    try:
        assert bodies.parse(DetokenizeBody, b'{"tokens": [1, 2]}').tokens == [1, 2]
        with pytest.raises(RequestError, match="tokens"):
            bodies.parse(DetokenizeBody, b'{"tokens": ["a"]}')
        bodies._children[0].kill()
        bodies._children[0].wait()
        assert bodies.parse(DetokenizeBody, b'{"tokens": [3]}').tokens == [3]
    finally:
        bodies.close()


def test_bodies_together_are_bounded() -> None:
    held = BodyBytes(10)
    held.add(8)
    with pytest.raises(OverloadedError, match="10 at once"):
        held.add(3)
    held.remove(8)
    held.add(10)
