"""One exchange with a made-up server: whole, left, refused, unreachable."""

import asyncio

from loadtests.harness.server_process import free_port
from loadtests.scenarios.exchange import Exchange, Pause, post, stream
from loadtests.scenarios.workload import CHAT, chat_body
from tests.unit.loadtests.fake_server import FakeServer


async def ask(pause: Pause | None = None) -> Exchange:
    async with FakeServer().listening() as url:
        return await asyncio.to_thread(stream, url, CHAT, chat_body("sql", "hi", 5), pause)


async def test_whole_answer() -> None:
    exchange = await ask()
    assert (exchange.status, exchange.text, exchange.num_tokens) == (200, "xxxxx", 5)
    assert exchange.is_whole
    assert not exchange.has_left
    assert len(exchange.arrivals) == 5
    assert exchange.arrivals == sorted(exchange.arrivals)
    assert 0 < exchange.arrivals[-1] <= exchange.seconds


async def test_a_user_may_leave() -> None:
    exchange = await ask(lambda num_events: num_events < 3)
    assert exchange.has_left
    assert not exchange.is_whole
    assert exchange.text == "xx"  # the first event carries the role


async def test_nobody_there() -> None:
    exchange = await asyncio.to_thread(post, f"http://127.0.0.1:{free_port()}", "/", b"{}")
    assert exchange.status == 0
    assert "ConnectionRefusedError" in exchange.failure
