"""What an access line tells of an answer or a refusal."""

import json
import logging
from typing import Any

import httpx
import pytest

from server.api.access.callers import Right
from server.api.access.keys import KeyRing
from server.logs import JsonFormatter
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_keys import make_key


async def lines_of(
    caplog: pytest.LogCaptureFixture,
    serving: FakeServing,
    path: str,
    body: dict[str, Any],
    method: str = "POST",
    key: str = "",
) -> tuple[dict[str, Any], str]:
    """The access line of one request: as an object, and as text."""
    caplog.clear()
    caplog.set_level(logging.INFO, "server.access")
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        if method == "POST":
            await client.post(path, json=body, headers=headers)
        else:
            await client.request(method, path, headers=headers)
    (record,) = [r for r in caplog.records if r.name == "server.access"]
    return json.loads(JsonFormatter().format(record)), record.getMessage()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_tells_its_adapter_its_tokens_and_its_ttft(
    caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    body = {"model": "sql:0.5+polite", "prompt": "hello", "stream": stream}
    entry, text = await lines_of(caplog, FakeServing(), "/v1/completions", body)
    assert entry["adapter"] == "sql@3:0.5+polite@1"
    assert entry["prompt_tokens"] > 0
    assert entry["completion_tokens"] > 0
    assert 0 <= entry["ttft_seconds"] <= entry["seconds"]
    assert "error_code" not in entry
    tokens = f"{entry['prompt_tokens']} + {entry['completion_tokens']} tokens"
    assert f": sql@3:0.5+polite@1, {tokens}, the first after " in text


async def test_the_base_and_several_prompts(caplog: pytest.LogCaptureFixture) -> None:
    body = {"model": BASE_ID, "prompt": ["hello"]}
    one, _ = await lines_of(caplog, FakeServing(), "/v1/completions", body)
    body = {"model": BASE_ID, "prompt": ["hello", "hello"]}
    two, _ = await lines_of(caplog, FakeServing(), "/v1/completions", body)
    assert one["adapter"] == BASE_ID
    assert two["prompt_tokens"] == 2 * one["prompt_tokens"]
    assert two["completion_tokens"] == 2 * one["completion_tokens"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": "none", "prompt": "x"}, 404, "model_not_found", "model"),
        ({"model": "sql", "prompt": "x", "top_p": 7}, 400, "invalid_request_error", "top_p"),
        ({"model": "sql", "prompt": "x" * 999}, 400, "context_length_exceeded", "prompt"),
        ({"model": "sql", "prompt": "x", "a\nb": 1}, 400, "invalid_request_error", None),
    ],
)
async def test_a_refusal_tells_why(
    caplog: pytest.LogCaptureFixture,
    body: dict[str, Any],
    status: int,
    code: str,
    param: str | None,
) -> None:
    entry, text = await lines_of(caplog, FakeServing(), "/v1/completions", body)
    assert (entry["status"], entry["error_code"], entry.get("error_param")) == (status, code, param)
    assert f"refused: {code}" in text
    assert "\n" not in text


async def test_a_stream_that_breaks_off_tells_why(caplog: pytest.LogCaptureFixture) -> None:
    serving = FakeServing(FakeEngine(fail_after=3))
    entry, _ = await lines_of(
        caplog, serving, "/v1/completions", {"model": "sql", "prompt": "x", "stream": True}
    )
    assert (entry["status"], entry["error_code"]) == (200, "generation_failed")
    assert entry["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/v1/adapters/sql/pin", {}, "POST"),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "b"}, "POST"),
        ("/v1/completions", {"model": "polite", "prompt": "x"}, "POST"),
        ("/v1/completions", {"model": BASE_ID, "prompt": "x"}, "POST"),
        ("/v1/adapters/sql", {}, "DELETE"),
    ],
)
async def test_every_403_has_the_key_in_its_line(
    caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any], method: str
) -> None:
    key, record = make_key("tenant", adapters=("sql",), rights=frozenset({Right.INFER}))
    serving = FakeServing(keys=KeyRing([record]))
    entry, text = await lines_of(caplog, serving, path, body, method, key)
    assert (entry["status"], entry["error_code"]) == (403, "permission_denied")
    assert (entry["key"], entry["key_id"]) == ("tenant", record.id)
    assert f"key tenant ({record.id})" in text


async def test_a_rated_key_is_in_its_429(caplog: pytest.LogCaptureFixture) -> None:
    key, record = make_key("tenant", requests_per_minute=1)
    serving = FakeServing(keys=KeyRing([record]))
    app = serving.app()
    transport = httpx.ASGITransport(app)
    headers = {"authorization": f"Bearer {key}"}
    caplog.set_level(logging.INFO, "server.access")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(3):
            await client.post(
                "/v1/completions", json={"model": "sql", "prompt": "x"}, headers=headers
            )
    record_of = [r for r in caplog.records if r.name == "server.access"][-1]
    entry = json.loads(JsonFormatter().format(record_of))
    assert (entry["status"], entry["key_id"]) == (429, record.id)
