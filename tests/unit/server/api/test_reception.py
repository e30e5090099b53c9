"""A server that loads: alive, closed to whoever has no key, one clear answer for the rest."""

import httpx
import pytest

from server.api.access.drain import Drain
from server.api.access.keys import KeyRing
from server.api.access.rights import RIGHTS
from server.api.reception import Reception, waiting_room
from server.api.settings import ApiSettings
from tests.fakes.api_app import FakeServing
from tests.fakes.api_keys import make_key

OPEN = {"/health/live", "/version", "/metrics"}
ROUTES = [
    (method, path.replace("{model_id:path}", "m").replace("{name}", "n")) for method, path in RIGHTS
]


def client(keys: KeyRing | None = None, drain: Drain | None = None) -> httpx.AsyncClient:
    app = Reception(waiting_room(ApiSettings(), keys, drain or Drain()))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_answers_at_once(method: str, path: str) -> None:
    async with client() as http:
        answer = await http.request(method, path, content=b"not even JSON")
    if path in OPEN:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) >= 1
        assert "loading" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_nobody_learns_more_than_later(method: str, path: str) -> None:
    ring = KeyRing([make_key("me")[1]])
    real = httpx.ASGITransport(FakeServing(keys=ring).app())
    async with (
        client(ring) as http,
        httpx.AsyncClient(transport=real, base_url="http://test") as later,
    ):
        for headers in ({}, {"authorization": "Bearer nonsense"}):
            now = await http.request(method, path, headers=headers)
            then = await later.request(method, path, headers=headers)
            if then.status_code in (401, 403):
                assert now.json() == then.json()
            else:
                assert now.status_code in (200, 503)


async def test_a_key_gets_as_far_as_its_rights() -> None:
    key, record = make_key("me")
    headers = {"authorization": f"Bearer {key}"}
    async with client(KeyRing([record])) as http:
        assert (await http.post("/v1/completions", headers=headers)).status_code == 503
        assert (await http.delete("/v1/adapters/a", headers=headers)).status_code == 403


async def test_unknown_urls_and_methods_are_as_ever() -> None:
    async with client() as http:
        assert (await http.get("/nope")).status_code == 404
        wrong = await http.get("/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


async def test_a_server_told_to_stop_says_so() -> None:
    drain = Drain()
    drain.begin()
    async with client(drain=drain) as http:
        answer = await http.post("/v1/completions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


async def test_once_it_is_open_the_real_application_answers() -> None:
    reception = Reception(waiting_room(ApiSettings(), None, Drain()))
    reception.open(FakeServing().app())
    transport = httpx.ASGITransport(reception)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/health/ready")).status_code == 200
