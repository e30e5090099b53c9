"""Odd values are the client's mistakes: 4xx, with the value and the limit."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from adapters.errors import AdapterInUseError
from tests.fakes.api_administration import FakeAdministration
from tests.fakes.api_app import BASE_ID, FakeServing


class RefusingAdministration(FakeAdministration):
    """Has one version, which its name means."""

    async def remove(self, reference: str) -> None:
        raise AdapterInUseError(f"{reference} is what the name means: adapters alias sql 2")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FakeServing(administration=RefusingAdministration()).app()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("scale", ["1e38", "-1e38", "1e308", "3.5e38", "10000.1", "-1e5"])
async def test_a_scale_beyond_the_models_numbers(client: httpx.AsyncClient, scale: str) -> None:
    chat = '"messages": [{"role": "user", "content": "x"}]'
    stacked = f'"adapters": [{{"name": "sql", "scale": {scale}}}]'
    json = {"content-type": "application/json"}
    for path, body in (
        ("/v1/chat/completions", f'{{"model": "{BASE_ID}", {stacked}, {chat}}}'),
        ("/v1/completions", f'{{"model": "{BASE_ID}", {stacked}, "prompt": "x"}}'),
        ("/v1/responses", f'{{"model": "{BASE_ID}", {stacked}, "input": "x"}}'),
        ("/v1/completions", f'{{"model": "sql:0.5+polite:{scale}", "prompt": "x"}}'),
        (
            "/v1/adapters/merge",
            f'{{"name": "m", "adapters": [{{"name": "a", "scale": {scale}}}, {{"name": "b"}}]}}',
        ),
    ):
        answer = await client.post(path, content=body, headers=json)
        assert answer.status_code == 400, (path, answer.text)
        assert answer.json()["error"]["param"]


@pytest.mark.parametrize("scale", [10_000, -10_000, 0, 1e-300, -0.5])
async def test_every_scale_within_the_limits_is_taken(
    client: httpx.AsyncClient, scale: float
) -> None:
    body: dict[str, Any] = {"model": BASE_ID, "adapters": [{"name": "sql", "scale": scale}]}
    answer = await client.post("/v1/completions", json={**body, "prompt": "x"})
    assert answer.status_code == 200


async def test_removing_what_a_name_means_is_a_conflict(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/v1/adapters/sql@3")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "adapter_in_use")
    assert "adapters alias sql 2" in answer.json()["error"]["message"]
