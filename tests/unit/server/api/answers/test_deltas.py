"""Collecting and merging what engines yield."""

import asyncio

import pytest

from server.api.answers.deltas import close_deltas, collect, generate_all
from server.api.answers.format import CachedPrompts
from server.api.errors import ClientGoneError, GenerationFailedError
from server.api.requests.disconnect import await_while_connected
from server.core.errors import OverloadedError
from server.core.request import (
    FinishReason,
    GenerationDelta,
    GenerationRequest,
    SamplingParams,
)
from tests.fakes.api_engine import FakeEngine


def request(request_id: str, num_choices: int = 1) -> GenerationRequest:
    return GenerationRequest(
        request_id, (1,), SamplingParams(max_tokens=20), num_choices=num_choices
    )


async def test_collects_one_request() -> None:
    engine = FakeEngine(lambda r, i: "abc"[: i + 1])
    choices = await collect(generate_all(engine, [request("a", 3)]), 3, CachedPrompts(3))
    assert [choice.text for choice in choices] == ["a", "ab", "abc"]
    assert sum(choice.num_tokens for choice in choices) == 1 + 2 + 3 + 3
    assert engine.completed == ["a"]


async def test_merges_several_requests_with_their_choices_numbered_through() -> None:
    engine = FakeEngine(lambda r, i: f"{r.request_id}{i}")
    deltas = generate_all(engine, [request("a", 2), request("b", 1), request("c", 2)])
    choices = await collect(deltas, 5, CachedPrompts(1))
    assert [choice.text for choice in choices] == ["a0", "a1", "b0", "c0", "c1"]
    assert sorted(engine.completed) == ["a", "b", "c"]


async def test_closing_a_merge_closes_every_request() -> None:
    engine = FakeEngine(hang_after=2)
    deltas = generate_all(engine, [request("a"), request("b")])
    await anext(deltas)
    await close_deltas(deltas)
    assert sorted(engine.aborted) == ["a", "b"]
    assert engine.num_running == 0


async def test_an_error_of_one_ends_the_merge() -> None:
    engine = FakeEngine(error=OverloadedError("full"))
    with pytest.raises(OverloadedError):
        await collect(generate_all(engine, [request("a"), request("b")]), 2, CachedPrompts(1))


class QuietEngine(FakeEngine):
    """Ends without finishing anything."""

    async def generate(self, request: GenerationRequest):  # type: ignore[no-untyped-def]
        yield GenerationDelta(0, "x", 1)
        yield GenerationDelta(0, "", 1, FinishReason.STOP)


async def test_choices_without_an_end_are_a_failure() -> None:
    with pytest.raises(GenerationFailedError, match="1 of 2 choices unfinished"):
        await collect(generate_all(QuietEngine(), [request("a", 2)]), 2, CachedPrompts(2))


async def test_a_client_that_leaves_ends_the_task() -> None:
    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    task = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(ClientGoneError):
        await await_while_connected(task, receive)
    assert task.cancelled()


async def test_waiting_ends_with_the_task_or_the_time() -> None:
    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(asyncio.sleep(0, "done"))
    await await_while_connected(task, receive)
    assert task.result() == "done"
    hanging = asyncio.create_task(asyncio.Event().wait())
    await await_while_connected(hanging, receive, 0.0)
    assert not hanging.done()
    hanging.cancel()


async def test_cancelling_the_wait_cancels_the_task() -> None:
    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(asyncio.Event().wait())
    waiting = asyncio.create_task(await_while_connected(task, receive))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task.cancelled()
