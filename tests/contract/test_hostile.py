"""Bodies and headers that mean no good get the API's own words; the long run is loadtests.fuzz."""

import json

import httpx
import pytest

from tests.fakes.api_app import FakeServing

JSON = {"content-type": "application/json"}
DEEP = 100_000


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * DEEP + b"]" * DEEP,
        b'{"model":' * DEEP + b"1" + b"}" * DEEP,
        b'{"model":"sql","prompt":"x","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"model":"sql","prompt":"x","max_tokens":' + b"9" * 100_000 + b"}",
        b'{"model":"sql","prompt":"x","temperature":1e999}',
        b'{"model":"sql","prompt":"x","temperature":NaN}',
        b'{"model":"sql","prompt":"x","n":-99999999999999999999}',
        b'{"model":"\xc3\x28","prompt":"x"}',
        b'{"model":"sql\\u0000","prompt":"x"}',
        b"\xff\xfe{\x00}\x00",
        b'{"model":"sql","model":7}',
        b"null",
        b'{"model":"' + b"a" * 1_000_000 + b'","prompt":"x"}',
        json.dumps({"model": "sql", "prompt": "x", **{f"k{i}": i for i in range(20_000)}}).encode(),
        json.dumps({"model": "sql", "prompt": "x", "k" * 1_000_000: 1}).encode(),
    ],
    ids=range(15),
)
async def test_hostile_bodies(path: str, content: bytes) -> None:
    transport = httpx.ASGITransport(FakeServing().app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post(path, content=content, headers=JSON)
    assert 400 <= answer.status_code < 500, answer.text[:200]
    assert answer.json()["error"]["message"]
    assert len(answer.content) < 20_000, "an answer isn't an echo"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer " + "x" * 5000},
        {"authorization": "\xff\xfe"},
        {"x-request-timeout": "nan"},
        {"x-request-timeout": "-1"},
        {"x-request-timeout": "1e999"},
        {"x-request-id": "\x7f" * 50},
        {"content-length": "-5"},
        {"accept": "*" * 5000},
        {"traceparent": "00-zz-zz-zz"},
    ],
    ids=range(9),
)
async def test_hostile_headers(headers: dict[str, str]) -> None:
    transport = httpx.ASGITransport(FakeServing().app(), raise_app_exceptions=False)
    encoded = {k: v.encode("latin-1") for k, v in {**JSON, **headers}.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for method, path in (("POST", "/v1/completions"), ("GET", "/metrics")):
            content = b'{"model":"sql","prompt":"x"}' if method == "POST" else None
            answer = await client.request(method, path, headers=encoded, content=content)
            assert answer.status_code < 500
