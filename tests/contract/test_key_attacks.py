"""What the owner of a restricted key might try to learn of others, or to do to them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Counter

from server.api.access.keys import KeyRing
from server.core.grammar import GrammarSpec
from server.core.request import GenerationRequest
from tests.fakes.api_app import FakeServing
from tests.fakes.api_keys import make_key
from tests.fakes.store_app import StoreApp

NAMES = {"a": 1, "b-secret": 2, "ver": 2}
RIGHTS = ["infer", "load", "admin"]


class Attack:
    """A restricted key beside one for everything, on one server."""

    def __init__(self, root: Path, app: StoreApp, clients: Sequence[httpx.AsyncClient]) -> None:
        self.root, self.app = root, app
        self.mine, self.operator = clients

    async def load(self, path: str | Path, name: str = "a-new") -> httpx.Response:
        body = {"lora_name": name, "lora_path": str(path), "load_inplace": True}
        return await self.mine.post("/v1/load_lora_adapter", json=body)

    async def generate(self, model: str) -> httpx.Response:
        body = {"model": model, "prompt": "x", "max_tokens": 1}
        return await self.mine.post("/v1/completions", json=body)


@asynccontextmanager
async def attack(
    root: Path, *patterns: str, host_cache_bytes: int = 100_000
) -> AsyncIterator[Attack]:
    key, mine = make_key("mine", adapters=list(patterns), rights=RIGHTS)
    other, theirs = make_key("operator", rights=RIGHTS)
    app = StoreApp(root, NAMES, [mine, theirs], host_cache_bytes=host_cache_bytes)
    async with app.clients([key, other]) as clients:
        yield Attack(root, app, clients)


def told(answer: httpx.Response, *names: str | Path) -> tuple[int, str]:
    """Status and text, without what the request itself named."""
    text = answer.text
    for name in names:
        text = text.replace(str(name), "NAME")
    return answer.status_code, text


async def test_loading_reads_only_what_the_key_may_use(tmp_path: Path) -> None:
    async with attack(tmp_path, "a*") as me:
        store, uploads = tmp_path / "store", tmp_path / "uploads"
        refused = [
            store / "b-secret" / "1",
            store / "b-secret" / "9",
            store / "c-none" / "1",
            store / "b-secret",
            store,
            store / ".staging",
            store / ".quarantine" / "a" / "1",
            Path(f"{store}//b-secret/./1"),
            store / "a" / ".." / "b-secret" / "1",
            store / "a" / ".." / "c-none" / "1",
            uploads / "b-secret" / "run",
            uploads / "c-none" / "run",
            uploads / "a" / ".." / "b-secret" / "run",
            uploads,
            tmp_path,
            Path("/etc"),
            Path("/etc/none"),
            Path("a/1"),
        ]
        answers = {told(await me.load(path), path) for path in refused}
        assert len(answers) == 1, "one answer, whether or not it is there"
        assert answers.pop()[0] == 403
        assert (await me.load(store / "a" / "1", "b-mine")).status_code == 403
        for own in (store / "a" / "1", uploads / "a" / "run"):
            assert (await me.load(own)).status_code == 200
        assert me.app.store.versions("a-new") == (1, 2)


async def test_a_link_is_read_as_what_it_leads_to(tmp_path: Path) -> None:
    async with attack(tmp_path, "a*") as me:
        store, uploads = tmp_path / "store", tmp_path / "uploads"
        targets = {"there": store / "b-secret" / "1", "gone": store / "b-secret" / "9"}
        for name, target in targets.items():
            (uploads / "a" / name).symlink_to(target)
        (uploads / "b-link").symlink_to(store / "a" / "1")
        (uploads / "a" / "loop").symlink_to(uploads / "a" / "loop")
        paths = [uploads / "a" / name for name in (*targets, "loop")]
        answers = {told(await me.load(path), path) for path in (*paths, uploads / "b-link")}
        assert len(answers) == 1
        assert answers.pop()[0] == 403
        (uploads / "a" / "own").symlink_to(store / "a" / "1")
        assert (await me.load(uploads / "a" / "own")).status_code == 200


async def test_a_version_key_reads_only_its_version_from_the_store(tmp_path: Path) -> None:
    async with attack(tmp_path, "ver@1", "a-new") as me:
        assert (await me.load(tmp_path / "store" / "ver" / "1")).status_code == 200
        answers = {
            told(await me.load(tmp_path / "store" / "ver" / v), f"ver/{v}") for v in ("2", "3")
        }
        assert {status for status, _ in answers} == {403}
        assert len(answers) == 1


async def test_a_key_for_everything_still_loads_from_everywhere(tmp_path: Path) -> None:
    async with attack(tmp_path, "a*") as me:
        for path in ("store/b-secret/1", "uploads/b-secret/run"):
            body = {"lora_name": "copy", "lora_path": str(tmp_path / path), "load_inplace": True}
            answer = await me.operator.post("/v1/load_lora_adapter", json=body)
            assert answer.status_code == 200, answer.text


async def test_a_version_key_administers_its_version_alone(tmp_path: Path) -> None:
    async with attack(tmp_path, "ver@1") as me:
        http = me.mine
        assert (await http.get("/v1/adapters/ver@1")).json()["versions"][0]["version"] == 1
        assert (await http.post("/v1/adapters/ver@1/pin")).status_code == 200
        assert (await http.post("/v1/adapters/ver@1/unpin")).status_code == 200
        for reference in ("ver@2", "ver@9", "ver"):
            path = f"/v1/adapters/{reference}"
            answers = [await http.get(path), await http.delete(path)]
            answers += [await http.post(f"{path}/{v}") for v in ("pin", "unpin", "prefetch")]
            assert {answer.status_code for answer in answers} == {403}
        alias = await http.put("/v1/adapters/ver/alias", json={"version": 1})
        unload = await http.post("/v1/unload_lora_adapter", json={"lora_name": "ver"})
        assert (alias.status_code, unload.status_code) == (403, 403)
        assert (await me.operator.get("/v1/adapters/ver")).json()["current"] == 2
        assert (await http.delete("/v1/adapters/ver@1")).status_code == 200
        assert me.app.store.versions("ver") == (2,)


async def test_what_a_name_means_is_told_only_where_it_is_ones_own(tmp_path: Path) -> None:
    async with attack(tmp_path, "ver@1") as me:

        async def alias(body: Any) -> None:
            answer = await me.operator.put("/v1/adapters/ver/alias", json=body)
            assert answer.status_code == 200

        elsewhere = await me.generate("ver")
        lists = [await me.mine.get(path) for path in ("/v1/models", "/v1/models/ver")]
        unloading = {"lora_name": "ver"}
        await me.operator.post("/v1/unload_lora_adapter", json=unloading)
        assert told(await me.generate("ver")) == told(elsewhere)
        for answer in lists:
            again = await me.mine.get(answer.request.url.path)
            assert told(again) == told(answer), "unloaded, or another's version: the same"
        await me.operator.delete("/v1/adapters/ver")
        assert told(await me.generate("ver")) == told(elsewhere)
    async with attack(tmp_path / "again", "ver@1") as me:
        await me.operator.put("/v1/adapters/ver/alias", json={"version": 1})
        assert (await me.generate("ver")).json()["model"] == "ver@1"
        [card] = (await me.mine.get("/v1/models")).json()["data"]
        assert card["root"] == "ver/1"
        refused = await me.mine.delete("/v1/adapters/ver@1")
        assert refused.status_code == 403, "what the name means goes only with the name"
        await me.operator.delete("/v1/adapters/ver@2")
        assert told(await me.mine.delete("/v1/adapters/ver@1")) == told(refused)


async def test_no_answer_names_what_is_others(tmp_path: Path) -> None:
    async with attack(tmp_path, "b-secre", "b-secrets", "ver@9") as me:
        await me.operator.post("/v1/adapters/b-secret/pin")
        http = me.mine
        alias = {"version": 1}
        merge = {"name": "b-secre", "adapters": [{"name": "b-secre"}, {"name": "b-secrets"}]}
        answers = [
            await http.delete("/v1/adapters/b-secrets"),
            await http.delete("/v1/adapters/ver@9"),
            await http.put("/v1/adapters/b-secrets/alias", json=alias),
            await http.post("/v1/adapters/b-secrets/unpin"),
            await http.post("/v1/adapters/merge", json=merge),
            await http.get("/v1/adapters/ver@9"),
            await http.get("/v1/adapters"),
            await http.get("/v1/models"),
            await me.generate("b-secrets"),
            await me.generate("b-secre+b-secrets"),
            await me.generate("ver@9"),
            await http.get("/openapi.json"),
        ]
        for answer in answers:
            text = answer.text.replace("b-secrets", "").replace("ver@9", "")
            assert "b-secret" not in text, answer.text
            assert "there is" not in text, answer.text
            assert "ver/" not in text, answer.text


@pytest.mark.parametrize("name", ["a/../b-secret", "a/../../x", "a@1", "a b", "a\n", "a+b-secret"])
async def test_what_is_no_name_opens_nothing(tmp_path: Path, name: str) -> None:
    async with attack(tmp_path, "a*") as me:
        before = (await me.operator.get("/v1/adapters")).text
        assert (await me.load(tmp_path / "store" / "a" / "1", name)).status_code in (400, 403)
        answer = await me.mine.post("/v1/unload_lora_adapter", json={"lora_name": name})
        assert answer.status_code in (403, 404)
        merge = {"name": name, "adapters": [{"name": "a"}, {"name": "a@1"}]}
        assert (await me.mine.post("/v1/adapters/merge", json=merge)).status_code in (400, 403)
        assert (await me.operator.get("/v1/adapters")).text == before


async def test_pins_without_room_tell_no_amounts(tmp_path: Path) -> None:
    async with attack(tmp_path, "a*", host_cache_bytes=250) as me:
        for reference in ("b-secret@1", "ver@1"):
            assert (await me.operator.post(f"/v1/adapters/{reference}/pin")).status_code == 200
        answer = await me.mine.post("/v1/adapters/a/pin")
        assert answer.status_code == 409
        message = answer.json()["error"]["message"]
        assert not any(character.isdigit() for character in message), message
        seen = await me.operator.post("/v1/adapters/a/pin")
        assert "200 of 250 are pinned already" in seen.json()["error"]["message"]


async def test_open_metrics_name_adapters_only_to_who_may_see_them() -> None:
    infer, record = make_key("i")
    metrics, scraper = make_key("m", rights=["metrics"])
    serving = FakeServing(keys=KeyRing([record, scraper]))
    tokens = Counter("tokens", "x", ("adapter", "reason"), registry=serving.registry)
    for adapter, reason in (("b-secret", "stop"), ("a", "stop"), ("a", "length")):
        tokens.labels(adapter, reason).inc()
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for key in ("", infer, "sy-wrong"):
            answer = await http.get("/metrics", headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200
            assert "b-secret" not in answer.text
            assert 'tokens_total{reason="stop"} 2.0' in answer.text, "totals stay"
            assert "switchyard_http_requests_total" in answer.text
        answer = await http.get("/metrics", headers={"authorization": f"Bearer {metrics}"})
        assert 'tokens_total{adapter="b-secret",reason="stop"} 1.0' in answer.text
        wanted = {"accept": "application/openmetrics-text"}
        shown = (await http.get("/metrics", headers=wanted)).text
        began = next(line for line in shown.splitlines() if line.startswith("tokens_created{"))
        assert float(began.split()[-1]) < 1e10, "a time, not a sum of times"
    open_app = httpx.ASGITransport(FakeServing().app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=open_app, base_url="http://test") as http:
        assert (await http.get("/metrics")).status_code == 200


async def test_grammars_and_shares_are_each_keys_own() -> None:
    (first, mine), (second, theirs) = make_key("a"), make_key("b")
    serving = FakeServing(keys=KeyRing([mine, theirs]))
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    body = {"model": "sql", "prompt": "x", "max_tokens": 1, "guided_json": {"type": "object"}}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for key in (first, second):
            headers = {"authorization": f"Bearer {key}"}
            await http.post("/v1/completions", json={**body, "user": mine.id}, headers=headers)
    specs: list[GrammarSpec] = serving.grammars.specs
    assert [spec.tenant for spec in specs] == [mine.id, theirs.id]
    requests: list[GenerationRequest] = serving.engine.requests
    assert [r.tenant for r in requests] == [mine.id, theirs.id], "user says nothing about whose"
    assert len({r.cache_salt for r in requests}) == 2
    assert all(r.cache_salt for r in requests)
