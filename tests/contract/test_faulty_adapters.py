"""Folders that would harm a trusting server, over HTTP: each is refused with its own message."""

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage
from adapters.names import parse_ref
from adapters.store.store import AdapterStore
from server.engine.hosting.catalog import StoreCatalog
from tests.fakes.api_app import FakeServing
from tests.unit.adapters.peft_folder import (
    MODULES,
    lora_config,
    lora_tensors,
    raw_safetensors,
    write_folder,
)

SERVED = ServedBase(BaseLineage(reference="base", digest="sha256:served"))
WEIGHTS = "adapter_model.safetensors"


@dataclass
class Server:
    client: httpx.AsyncClient
    store: AdapterStore
    root: Path

    async def load(self, path: Path | str, name: str = "x") -> httpx.Response:
        body = {"lora_name": name, "lora_path": str(path)}
        return await self.client.post("/v1/load_lora_adapter", json=body)

    async def assert_unharmed(self) -> None:
        """It answers, offers what it offered, and holds nothing of what it refused."""
        models = (await self.client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models if model["parent"]] == ["sound"]
        assert (await self.client.get("/health/ready")).status_code == 200
        assert sorted(os.listdir(self.store.root)) == [".lock", ".staging", "sound"]  # noqa: PTH208
        assert list((self.store.root / ".staging").iterdir()) == []
        assert [p.name for p in self.root.parent.iterdir() if "evil" in p.name] == []


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    store, root = AdapterStore(tmp_path / "store"), tmp_path / "uploads"
    store.import_folder("sound", write_folder(tmp_path / "sound"))
    root.mkdir()
    catalog = StoreCatalog(
        store, served=SERVED, base_modules=MODULES, allowed_roots=[root], max_rank=8
    )
    app = FakeServing(catalog=catalog).app()  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Server(client, store, root)


def _truncated(folder: Path) -> None:
    data = write_folder(folder).joinpath(WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-10])


def _wrong_shapes(folder: Path) -> None:
    modules = {**MODULES, "model.layers.0.self_attn.q_proj": (8, 16)}
    write_folder(folder, tensors=lora_tensors(modules))


def _json_bomb(folder: Path) -> None:
    write_folder(folder)
    (folder / "adapter_config.json").write_text('{"a":' * 50_000 + "1" + "}" * 50_000)


def _large_json(folder: Path) -> None:
    write_folder(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "L" * (5 << 20)}))


def _header_bomb(folder: Path) -> None:
    write_folder(folder)
    (folder / WEIGHTS).write_bytes(raw_safetensors(b'{"a":' * 100_000))


def _huge_header(folder: Path) -> None:
    write_folder(folder)
    (folder / WEIGHTS).write_bytes((2 << 30).to_bytes(8, "little") + b"{}")


def _link_within(folder: Path) -> None:
    write_folder(folder)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/etc/passwd")


def _pickle(folder: Path) -> None:
    write_folder(folder)
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04evil.")


def _disguised_pickle(folder: Path) -> None:
    write_folder(folder)
    (folder / WEIGHTS).write_bytes(b"\x80\x04evil." * 10)


def _other_modules(folder: Path) -> None:
    write_folder(folder, tensors=lora_tensors({"transformer.h.0.attn.q_proj": (8, 8)}))


def _over_the_rank(folder: Path) -> None:
    write_folder(folder, config=lora_config(r=9), tensors=lora_tensors(rank=9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_truncated, "the file is truncated"),
        (lambda f: write_folder(f, tensors=lora_tensors(fill=255)), "NaN or infinite values"),
        (lambda f: write_folder(f, tensors=lora_tensors(fill=0)), "the adapter has no effect"),
        (_wrong_shapes, "don't fit this base"),
        (_json_bomb, "adapter_config.json is nested deeper than"),
        (_large_json, "adapter_config.json is larger than"),
        (_header_bomb, "header is nested deeper than"),
        (_huge_header, "its header claims 2147483648 bytes"),
        (_link_within, "is a link that leaves the folder"),
        (_pickle, "adapter_model.bin is a pickle, which can run code"),
        (_disguised_pickle, "it is a pickle"),
        (_other_modules, "no module of the adapter"),
        (_over_the_rank, "has rank 9; this server takes up to 8 (setting max_lora_rank)"),
    ],
)
async def test_a_faulty_folder(
    server: Server, make: Callable[[Path], object], message: str
) -> None:
    folder = server.root / "faulty"
    folder.mkdir()
    make(folder)
    answer = await server.load(folder)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    await server.assert_unharmed()


async def test_names_and_paths_that_lead_out(server: Server) -> None:
    sound = write_folder(server.root / "sound")
    for name in ("../evil", "a/../../evil", "..", ".staging", "/etc/evil", "x\0evil"):
        answer = await server.load(sound, name)
        assert answer.status_code == 400, name
        assert "adapter name" in answer.json()["error"]["message"]
    outside = write_folder(server.root.parent / "outside")
    (server.root / "link").symlink_to(outside)
    for path in (outside, server.root / "link", server.root / ".." / "outside", "/etc"):
        answer = await server.load(path)
        assert answer.status_code == 404, path
        assert "adapters are read only below" in answer.json()["error"]["message"]
    answer = await server.load(server.root / "none")
    assert (answer.status_code, "No adapter found" in answer.text) == (404, True)
    await server.assert_unharmed()
    assert (await server.load(sound)).status_code == 200


async def test_a_version_that_rots_in_the_store_is_told_as_broken(server: Server) -> None:
    stored = server.store.import_folder("rotten", write_folder(server.root / "r", fill=3))
    server.store.quarantine(parse_ref(stored.label), "its files were damaged")
    body = {"model": "rotten", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await server.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "adapter_unreadable"
    assert "is in quarantine: its files were damaged" in answer.json()["error"]["message"]


async def test_a_name_that_points_at_nothing_says_how_to_roll_back(server: Server) -> None:
    server.store.import_folder("sound", write_folder(server.root / "two", fill=2))
    (server.store.root / "sound" / "2" / "manifest.json").unlink()
    body = {"model": "sound", "prompt": "Hello"}
    answer = await server.client.post("/v1/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "adapter_unreadable")
    assert "points at nothing: sound@2 is damaged" in answer.json()["error"]["message"]
    assert "`adapters alias sound 1` rolls back" in answer.json()["error"]["message"]
    models = (await server.client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models if model["parent"]] == ["sound@1"]
    assert (await server.client.get("/v1/models/sound@1")).status_code == 200
    answer = await server.client.post("/v1/completions", json={**body, "model": "sound@1"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["a\0b", "\0", "x" * 5000, "a/" * 3000, "~/x\0"])
async def test_a_path_that_no_folder_has_is_the_clients_mistake(server: Server, path: str) -> None:
    for given in (path, f"{server.root}/{path}"):
        answer = await server.load(given)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "adapter_not_found")
    await server.assert_unharmed()


async def test_errors_name_no_place_on_this_machine(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """`/` is in no error but in what the client itself said; the log has the place."""
    place = str(server.root.parent)
    _json_bomb(server.root / "bomb")
    for given in ("bomb", str(server.root / ".." / "outside"), str(server.root / "bomb")):
        answer = await server.load(given)
        assert 400 <= answer.status_code < 500
        message = answer.json()["error"]["message"].replace(given, "")
        assert place not in message
    assert place in caplog.text
