"""The processes that render chat templates: bounded, fair between callers, replaced, all ended."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from server.core.chat import RenderOrder
from server.core.errors import (
    DeadlineExceededError,
    OverloadedError,
    RenderingDownError,
    RequestError,
)
from server.model.rendering import render_pool, render_process
from server.model.rendering.render_pool import RenderPool
from tests.fakes.templates import ECHOING, GROWING, LOOPING, WIDENING

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOREVER = 3600.0
SECRET = "swordfish"


def order_with(template: str, content: str = "hi") -> RenderOrder:
    return RenderOrder("sql@3", template, [{"role": "user", "content": content}])


def is_gone(pid: int) -> bool:
    """Whether there is no such process, not even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it is about processes, which set no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def pool_of(
    num_processes: int, timeout_seconds: float = FOREVER, memory_mib: int = 128
) -> AsyncIterator[RenderPool]:
    """A pool that is up; when it is closed nothing of it is left."""
    pool = RenderPool(
        timeout_seconds=timeout_seconds, memory_mib=memory_mib, num_processes=num_processes
    )
    pool.start()
    await until(lambda: len(pool.pids) == num_processes)
    seen = set(pool.pids)
    try:
        yield pool
        seen |= pool.pids
    finally:
        await pool.close()
    assert all(is_gone(pid) for pid in seen)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[RenderPool]:
    """One process, which takes most of a second to start: the tests share it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        async with pool_of(1, memory_mib=256) as shared:
            yield shared


async def render(pool: RenderPool, template: str, caller: str = "me", **named: float) -> str:
    order = order_with(template)
    return await pool.render(
        order, caller=caller, timeout_seconds=named.get("timeout_seconds", FOREVER)
    )


async def test_what_takes_too_much_is_ended_and_the_next_order_served() -> None:
    async with pool_of(1, timeout_seconds=0.3) as pool:
        (first,) = pool.pids
        with pytest.raises(RequestError, match=r"^sql@3's chat template took more than 0\.3 s"):
            await render(pool, LOOPING)
        assert await render(pool, ECHOING) == "hi"
        (second,) = pool.pids
        assert second != first
        assert is_gone(first)


@pytest.mark.parametrize("template", [GROWING, WIDENING], ids=["growing", "widening"])
async def test_memory_is_bounded(pool: RenderPool, template: str) -> None:
    with pytest.raises(RequestError, match=r"^sql@3's chat template took more than 256 MiB"):
        await render(pool, template)
    assert await render(pool, ECHOING) == "hi"


@pytest.mark.slow
async def test_compiled_templates_dont_eat_up_the_memory_of_others() -> None:
    async with pool_of(1, memory_mib=40) as pool:
        for i in range(40):
            huge = f"{i}{{% if messages|length > 9 %}}{'y' * 1_000_000}{{% endif %}}"
            assert await render(pool, huge) == str(i)


async def test_a_process_that_dies_at_work_is_the_templates_fault(pool: RenderPool) -> None:
    (pid,) = pool.pids
    asked = asyncio.create_task(render(pool, LOOPING))
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(RequestError, match="sql@3's chat template ended its process"):
        await asked
    assert await render(pool, ECHOING) == "hi"


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_the_process_gets_no_secrets(pool: RenderPool) -> None:
    (pid,) = pool.pids
    assert b"PYTHONPATH" in environment_of(pid)
    assert SECRET.encode() not in environment_of(pid)


async def test_a_process_that_dies_idle_is_nobodys_fault(pool: RenderPool) -> None:
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.05)
    assert await render(pool, ECHOING) == "hi"


async def test_cancelling_kills_the_process(pool: RenderPool) -> None:
    (first,) = pool.pids
    asked = asyncio.create_task(render(pool, LOOPING))
    await asyncio.sleep(0.05)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await render(pool, ECHOING) == "hi"
    assert is_gone(first)


async def test_cancelling_what_is_nearly_done_costs_no_process(pool: RenderPool) -> None:
    before = pool.pids
    for _ in range(10):
        asked = asyncio.create_task(render(pool, ECHOING))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    assert await render(pool, ECHOING) == "hi"
    assert pool.pids == before


async def test_a_deadline_holds_while_it_renders_and_while_it_waits(pool: RenderPool) -> None:
    running = render(pool, LOOPING, timeout_seconds=0.2)
    waiting = render(pool, ECHOING, timeout_seconds=0.1)
    results = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [DeadlineExceededError] * 2


async def test_one_callers_endless_templates_leave_a_process_to_the_others() -> None:
    async with pool_of(2) as pool:
        endless = [asyncio.create_task(render(pool, LOOPING, "bad")) for _ in range(4)]
        for _ in range(3):
            assert await render(pool, ECHOING, "good") == "hi"
        assert not any(task.done() for task in endless)
        for task in endless:
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)


async def test_callers_take_turns(pool: RenderPool) -> None:
    order: list[str] = []

    async def ask(caller: str) -> None:
        await render(pool, ECHOING, caller)
        order.append(caller)

    await asyncio.gather(*(ask(caller) for caller in ["a"] * 4 + ["b"] * 2))
    assert order == ["a", "b", "a", "b", "a", "a"]


async def test_too_many_waiting_are_refused_to_their_caller_alone(
    pool: RenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_pool, "MAX_WAITING_EACH", 3)
    asked = [asyncio.create_task(render(pool, ECHOING)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="3 conversations of this caller"):
        await render(pool, ECHOING)
    assert await render(pool, ECHOING, "another") == "hi"
    assert await asyncio.gather(*asked) == ["hi"] * 3


async def test_closing_ends_what_runs_and_waits() -> None:
    async with pool_of(1) as pool:
        asked = [asyncio.create_task(render(pool, LOOPING)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await pool.close()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [RenderingDownError] * 3
        with pytest.raises(RenderingDownError):
            await render(pool, ECHOING)


@pytest.mark.slow
async def test_a_base_whose_template_loops_refuses_it_and_renders_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(render_process, "_WARM_SECONDS", 0.2)
    pool = RenderPool(timeout_seconds=0.3, memory_mib=128, num_processes=1, warm_template=LOOPING)
    pool.start()
    with pytest.raises(RequestError, match="took more than"):
        await render(pool, LOOPING)
    assert await render(pool, ECHOING) == "hi"
    await pool.close()


async def test_processes_that_dont_start_fail_the_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    pool = RenderPool(timeout_seconds=1.0, memory_mib=128)
    pool.start()
    with pytest.raises(RenderingDownError, match="doesn't start"):
        await render(pool, ECHOING)
    await pool.close()


async def test_a_large_conversation_goes_through_whole(pool: RenderPool) -> None:
    text = "naïve 🙂\n" * 100_000
    order = order_with(ECHOING, text)
    assert await pool.render(order, caller="me", timeout_seconds=None) == text
    pids = pool.pids
    lone = order_with("{{ messages[0].content }}", "\ud800")
    with pytest.raises(RequestError, match="surrogates"):
        await pool.render(lone, caller="me", timeout_seconds=None)
    assert pool.pids == pids
