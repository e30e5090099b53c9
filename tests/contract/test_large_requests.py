"""Large requests over HTTP: deadlines hold before the engine, and all is given back."""

import threading
from typing import Any

import httpx
import pytest

from server.api.generation import prompts
from server.api.settings import ApiSettings
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_server import serve
from tests.fakes.api_tokenizer import FakeTokenizer


def test_a_deadline_ends_a_request_while_it_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def stuck(self: Any, text: str, *, adds_special_tokens: bool = True) -> tuple[int, ...]:
        gate.wait(30)
        return (1,)

    monkeypatch.setattr(FakeTokenizer, "encode", stuck)
    monkeypatch.setattr(prompts, "_MAX_INLINE_CHARS", 10)
    with serve(FakeServing().app()) as url:
        try:
            answer = httpx.post(
                f"{url}/v1/completions",
                json={"model": BASE_ID, "prompt": "x" * 100},
                headers={"x-request-timeout": "0.1"},
                timeout=20,
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                408,
                "deadline_exceeded",
            )
            assert httpx.get(f"{url}/health/live").status_code == 200
        finally:
            gate.set()


def test_a_large_body_is_read_whole_and_refused_in_the_same_words() -> None:
    with serve(FakeServing().app()) as url:
        body = {"model": BASE_ID, "prompt": "hi", "metadata": {"a": "x" * 40_000}}
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
        small = httpx.post(f"{url}/v1/completions", json={**body, "metadata": {}, "oops": 1})
        large = httpx.post(f"{url}/v1/completions", json={**body, "oops": 1})
        assert (large.status_code, large.json()) == (400, small.json())


def test_bodies_beyond_the_servers_room_are_429_and_the_room_comes_back() -> None:
    serving = FakeServing(settings=ApiSettings(max_bodies_bytes=1000))
    with serve(serving.app()) as url:
        large = {"model": BASE_ID, "prompt": "x" * 2000}
        answer = httpx.post(f"{url}/v1/completions", json=large)
        assert answer.status_code == 429
        assert "retry-after" in answer.headers
        for _ in range(30):
            small = {"model": BASE_ID, "prompt": "x" * 100}
            assert httpx.post(f"{url}/v1/completions", json=small).status_code == 200
