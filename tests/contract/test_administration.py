"""`/v1/adapters` over the wire."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from server.api.access.keys import KeyRing
from server.core.administration import MergeOrder
from tests.fakes.api_administration import FakeAdministration
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_keys import make_key

Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[httpx.AsyncClient] = []

    def connect(serving: FakeServing, key: str | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        clients.append(
            httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
        )
        return clients[-1]

    yield connect
    for client in clients:
        await client.aclose()


@pytest.fixture
def administration() -> FakeAdministration:
    return FakeAdministration()


@pytest.fixture
def client(connect: Connect, administration: FakeAdministration) -> httpx.AsyncClient:
    return connect(FakeServing(administration=administration))


async def test_the_list(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/adapters")
    assert answer.status_code == 200
    (adapter,) = answer.json()["data"]
    assert (adapter["id"], adapter["current"], adapter["loaded"]) == ("sql", 3, True)
    (version,) = adapter["versions"]
    assert version == {
        "version": 3,
        "weight": 1.0,
        "digest": "sha256:sql3",
        "method": "lora",
        "rank": 8,
        "created": 1_700_000_000,
        "root": "sql/3",
        "bytes": {"disk": 1000, "host": 800},
        "residency": "host",
        "pinned": False,
        "pinned_in": None,
        "mismatches": [],
        "chat_template": {"used": "base", "note": None},
    }


async def test_the_details(client: httpx.AsyncClient) -> None:
    detail = (await client.get("/v1/adapters/sql")).json()
    assert detail["manifest"] == {"name": "sql", "rank": 8}
    assert detail["matched_modules"] == ["q_proj"]
    missing = await client.get("/v1/adapters/none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_pin_unpin_prefetch(
    client: httpx.AsyncClient, administration: FakeAdministration
) -> None:
    assert (await client.post("/v1/adapters/sql@3/pin")).json()["pinned"] is True
    pinned = await client.post("/v1/adapters/sql@3/pin?tier=device")
    assert pinned.json()["pinned_in"] == "device"
    refused = await client.post("/v1/adapters/sql@3/pin?tier=disk")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tier")
    assert administration.pinned == {"sql@3"}
    assert (await client.post("/v1/adapters/sql@3/unpin")).json()["pinned"] is False
    assert (await client.post("/v1/adapters/sql@3/unpin")).status_code == 404
    assert (await client.post("/v1/adapters/sql/prefetch")).json()["residency"] == "host"


async def test_the_alias(client: httpx.AsyncClient, administration: FakeAdministration) -> None:
    async def put(body: object) -> httpx.Response:
        return await client.put("/v1/adapters/sql/alias", json=body)

    canary = (await put({"weights": {"3": 0.9, "4": 0.1}})).json()
    assert administration.weights == {3: 0.9, 4: 0.1}
    assert [(v["version"], v["weight"]) for v in canary["versions"]] == [(3, 0.9), (4, 0.1)]
    assert (await put({"version": 4})).json()["current"] == 4
    for body in ({}, {"version": 3, "weights": {"3": 1.0}}, {"weights": {"x": 1.0}}, {"v": 3}):
        answer = await put(body)
        assert answer.status_code == 400, body


async def test_delete(client: httpx.AsyncClient, administration: FakeAdministration) -> None:
    answer = await client.delete("/v1/adapters/sql@3")
    assert answer.json() == {"id": "sql@3", "object": "adapter", "deleted": True}
    assert administration.removed == ["sql@3"]


async def test_merge(client: httpx.AsyncClient, administration: FakeAdministration) -> None:
    body = {
        "name": "both",
        "adapters": [{"name": "sql@3", "scale": 0.7}, {"name": "polite"}],
        "method": "svd",
        "rank": 16,
    }
    answer = await client.post("/v1/adapters/merge", json=body)
    assert answer.json()["adapter"] == "both@1"
    assert answer.json()["relative_error"] == 0.125
    assert [p["weight"] for p in answer.json()["parents"]] == [0.7, 1.0]
    order = MergeOrder("both", (("sql@3", 0.7), ("polite", 1.0)), "svd", 16)
    assert administration.merged == [order]
    for change in ({"name": BASE_ID}, {"adapters": [{"name": "sql"}]}, {"density": 2}, {"x": 1}):
        refused = await client.post("/v1/adapters/merge", json={**body, **change})
        assert refused.status_code == 400, change


async def test_a_key_reaches_only_its_own(
    connect: Connect, administration: FakeAdministration
) -> None:
    rights = ["infer", "load", "admin"]
    mine, record = make_key("mine", adapters=["polite*"], rights=rights)
    everything, other = make_key("all", adapters=["*"], rights=rights)
    serving = FakeServing(administration=administration, keys=KeyRing([record, other]))
    client = connect(serving, mine)
    assert (await client.get("/v1/adapters")).json()["data"] == []
    order = {"name": "polite", "adapters": [{"name": "sql"}, {"name": "polite"}]}
    for answer in (
        await client.get("/v1/adapters/sql"),
        await client.post("/v1/adapters/sql/pin"),
        await client.put("/v1/adapters/sql/alias", json={"version": 3}),
        await client.delete("/v1/adapters/sql@3"),
        await client.post("/v1/adapters/merge", json=order),
    ):
        assert answer.status_code == 403
    assert (administration.removed, administration.merged) == ([], [])
    serving.registry = type(serving.registry)()
    assert len((await connect(serving, everything).get("/v1/adapters")).json()["data"]) == 1


async def test_canaries_stick_to_whoever_asks_and_mismatches_are_told(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)
    body = {"model": "sql", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    serving.catalog.told_warnings = ("adapter sql@3: it was trained on \u00bbx\u00ab\n", "b")
    answer = await client.post("/v1/chat/completions", json={**body, "user": "ada"})
    assert answer.headers["x-switchyard-warning"] == "adapter sql@3: it was trained on ?x? ; b"
    serving.catalog.told_warnings = ()
    answer = await client.post("/v1/chat/completions", json={**body, "safety_identifier": "bob"})
    assert "x-switchyard-warning" not in answer.headers
    await client.post("/v1/chat/completions", json=body)
    assert serving.catalog.sticky_keys == ["ada", "bob", None]


async def test_a_version_is_a_model_too(connect: Connect) -> None:
    client = connect(FakeServing())
    assert (await client.get("/v1/models/sql@2")).json()["root"] == "sql/2"
    assert (await client.get("/v1/models/sql@2")).json()["id"] == "sql@2"
    assert (await client.get("/v1/models/sql@9")).status_code == 404
