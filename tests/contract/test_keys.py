"""Keys over the wire, through the `openai` client where it has a say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
from fastapi import FastAPI

from server.api.access.keys import KeyRing
from server.api.settings import ApiSettings
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_keys import ALL_RIGHTS, make_key

HELLO = [{"role": "user", "content": "Hello"}]


@asynccontextmanager
async def client_of(app: FastAPI, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    http = httpx.AsyncClient(transport=transport, base_url="http://test")
    async with openai.AsyncOpenAI(
        api_key=key, base_url="http://test/v1", http_client=http, max_retries=0
    ) as client:
        yield client


async def test_a_key_sees_and_uses_only_what_it_may() -> None:
    key, record = make_key("a", adapters=["sql@*"])
    async with client_of(FakeServing(keys=KeyRing([record])).app(), key) as client:
        assert [model.id for model in (await client.models.list()).data] == ["sql"]
        answer = await client.chat.completions.create(model="sql", messages=HELLO)  # type: ignore[arg-type]
        assert answer.model == "sql@3"
        messages = set()
        for model in ("polite", "not-there", "sql:0.5+polite:0.5", BASE_ID, "base"):
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await client.chat.completions.create(model=model, messages=HELLO)  # type: ignore[arg-type]
            text = caught.value.message.replace("not-there", "X").replace("polite", "X")
            messages.add(text)
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("polite")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve(BASE_ID)
        assert len(messages) == 2, "what exists must not show: one text for adapters, one for base"


@pytest.mark.parametrize("stream", [False, True])
async def test_no_key_or_a_wrong_one_is_401(stream: bool) -> None:
    key, record = make_key("a")
    serving = FakeServing(keys=KeyRing([record]))
    app = serving.app()
    async with client_of(app, "sy-000000000000-" + "x" * 43) as client:
        with pytest.raises(openai.AuthenticationError, match="incorrect API key"):
            await client.chat.completions.create(model="sql", messages=HELLO, stream=stream)  # type: ignore[call-overload]
    async with client_of(app, key) as client:
        serving.keys.replace([])  # type: ignore[union-attr]
        with pytest.raises(openai.AuthenticationError, match="revoked"):
            await client.chat.completions.create(model="sql", messages=HELLO)  # type: ignore[arg-type]
    assert serving.engine.requests == []


async def test_rates_are_429_with_retry_after() -> None:
    key, record = make_key("a", requests_per_minute=2)
    other, free = make_key("b")
    serving = FakeServing(keys=KeyRing([record, free]))
    app = serving.app()
    async with client_of(app, key) as client:
        for _ in range(2):
            await client.completions.create(model="sql", prompt="x")
        with pytest.raises(openai.RateLimitError) as caught:
            await client.completions.create(model="sql", prompt="x")
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30
        await client.models.list()
    async with client_of(app, other) as client:
        await client.completions.create(model="sql", prompt="x")
    assert {r.tenant for r in serving.engine.requests} == {record.id, free.id}


async def test_token_rates_count_prompt_and_answer() -> None:
    key, record = make_key("a", tokens_per_minute=100, priority=2.5)
    serving = FakeServing(keys=KeyRing([record]))
    app = serving.app()
    async with client_of(app, key) as client:
        await client.completions.create(model="sql", prompt="x" * 98, max_tokens=16)
        with pytest.raises(openai.RateLimitError, match="100 tokens per minute"):
            await client.completions.create(model="sql", prompt="x")
    assert serving.engine.requests[0].weight == 2.5


async def test_rights_are_separate() -> None:
    infer, infer_record = make_key("i")
    load, load_record = make_key("l", rights=["load"], adapters=["new*"])
    serving = FakeServing(keys=KeyRing([infer_record, load_record]))
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    body = {"lora_name": "new1", "lora_path": "/adapters/new1"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def post(path: str, key: str, body: object) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return (await http.post(path, json=body, headers=headers)).status_code

        assert await post("/v1/load_lora_adapter", infer, body) == 403
        assert await post("/v1/load_lora_adapter", load, body) == 200
        assert await post("/v1/load_lora_adapter", load, {**body, "lora_name": "sql"}) == 403
        assert await post("/v1/unload_lora_adapter", load, {"lora_name": "sql"}) == 403
        assert await post("/v1/completions", load, {"model": "new1", "prompt": "x"}) == 403
        assert await post("/v1/adapters/merge", load, {}) == 403
        assert (await http.get("/some/where", headers={"authorization": f"Bearer {load}"})
                ).status_code == 403  # fmt: skip


async def test_health_is_open_and_metrics_if_one_wishes() -> None:
    key, record = make_key("prometheus", rights=["metrics"])
    for need, status in ((False, 200), (True, 401)):
        settings = ApiSettings(metrics_need_key=need)
        serving = FakeServing(keys=KeyRing([record]), settings=settings)
        transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            assert (await http.get("/health/live")).status_code == 200
            assert (await http.get("/health/ready")).status_code == 200
            answer = await http.get("/metrics")
            assert answer.status_code == status
            if need:
                assert answer.headers["www-authenticate"] == "Bearer"
            answer = await http.get("/metrics", headers={"authorization": f"bearer {key}"})
            assert answer.status_code == 200
            assert key.split("-", 2)[2] not in answer.text


async def test_all_rights_reach_all_routes() -> None:
    key, record = make_key("root", rights=sorted(r.value for r in ALL_RIGHTS))
    serving = FakeServing(keys=KeyRing([record]))
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.get("/some/where", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 404
