"""The closed loop against a fake server."""

from collections import Counter

import pytest

from loadtests.harness.closed_loop import AnswerShape, ClosedLoop, chat_body
from loadtests.harness.http_client import HttpClientError
from loadtests.harness.server_process import base_model_id
from tests.unit.loadtests.fake_server import FakeServer


async def test_every_client_sends_its_requests_and_models_take_turns() -> None:
    fake = FakeServer()
    async with fake.listening() as url:
        loop = ClosedLoop("ours", url, AnswerShape(num_tokens=5))
        cell = await loop.measure(["a", "b", "c", "d"], 4, 3, 4)
    assert cell.num_requests == 12
    assert cell.num_tokens == 60
    assert (cell.server, cell.num_clients, cell.num_adapters) == ("ours", 4, 4)
    assert fake.max_running == 4
    assert Counter(body["model"] for body in fake.bodies) == {"a": 3, "b": 3, "c": 3, "d": 3}


async def test_no_prompt_comes_twice_not_even_after_the_warm_up() -> None:
    fake = FakeServer()
    async with fake.listening() as url:
        loop = ClosedLoop("ours", url, AnswerShape(num_tokens=5))
        await loop.warm_up(["a", "b", "c"], 2)
        await loop.measure(["a"], 2, 2, 1)
    prompts = [body["messages"][0]["content"] for body in fake.bodies]
    assert len(prompts) == 8
    assert len(set(prompts)) == 8
    assert {body["model"] for body in fake.bodies[:4]} == {"a", "b", "c"}


async def test_one_failed_request_fails_the_cell() -> None:
    loop = ClosedLoop("ours", "http://127.0.0.1:1", AnswerShape())
    with pytest.raises(HttpClientError, match="no server at"):
        await loop.measure(["a"], 2, 1, 1)


async def test_the_base_is_the_first_model_listed() -> None:
    async with FakeServer().listening() as url:
        assert await base_model_id(url) == "base"


def test_the_body_is_greedy_streamed_and_of_fixed_length() -> None:
    body = chat_body("sql", 3, AnswerShape(64))
    assert body["model"] == "sql"
    assert body["max_tokens"] == 64
    assert body["temperature"] == 0
    assert body["stream"] is True
    assert body["ignore_eos"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert "ignore_eos" not in chat_body("sql", 3, AnswerShape(64, ignore_eos=False))
