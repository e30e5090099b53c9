"""Every route of the application, tried with every pattern on every name, version and source.

`PROBES` says how each route is asked and what it must ask of a key. A route that has no probe fails
the first test, so none comes without somebody's having thought of what it may reach.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from adapters.errors import AdapterNotFoundError
from adapters.stack import parse_stack
from server.api.access.callers import Right
from server.api.access.keys import KeyRing
from server.api.access.rights import RIGHTS
from server.core.administration import (
    AdapterDetail,
    AdapterReport,
    MergeOrder,
    MergeResult,
    Tier,
    VersionReport,
)
from server.core.errors import AdapterUnavailableError
from server.core.stack import AdapterStack, AdapterVersion, StackMember
from tests.fakes.api_administration import version_report
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_catalog import FakeEntry
from tests.fakes.api_keys import ALL_RIGHTS, make_key

NAMES, VERSIONS = ("a", "ab", "b"), (1, 2)
CURRENT = 2
ALL = frozenset(product(NAMES, VERSIONS))


@dataclass(frozen=True)
class Grant:
    """What patterns allow, written out by hand: whole names, and single versions besides."""

    patterns: tuple[str, ...]
    names: frozenset[str] = frozenset()
    versions: frozenset[tuple[str, int]] = frozenset()
    everything: bool = False
    base: bool = False

    def has(self, reference: str) -> bool:
        name, at, version = reference.partition("@")
        if self.everything or name in self.names:
            return True
        return bool(at) and (name, int(version)) in self.versions

    def has_meaning_of(self, reference: str) -> bool:
        """Whether it may generate: a name alone means its current version."""
        name = reference.partition("@")[0]
        return self.has(reference if "@" in reference else f"{name}@{CURRENT}")


GRANTS = (
    Grant(()),
    Grant(("base",), base=True),
    Grant(("a",), frozenset("a")),
    Grant(("a@*",), frozenset("a")),
    Grant(("a*",), frozenset({"a", "ab"})),
    Grant(("a@1",), versions=frozenset({("a", 1)})),
    Grant(("a@2",), versions=frozenset({("a", 2)})),
    Grant(("a@[12]",), versions=frozenset({("a", 1), ("a", 2)})),
    Grant(("a*@1", "b"), frozenset("b"), frozenset({("a", 1), ("ab", 1)})),
    Grant(("?@2",), versions=frozenset({("a", 2), ("b", 2)})),
    Grant(("*@2",), versions=frozenset((name, 2) for name in NAMES)),
    Grant(("base", "*"), everything=True, base=True),
    Grant(("*@*",), everything=True),
)


@dataclass
class World:
    """A catalog and an administration where everything exists, or nothing does."""

    exists: bool
    changed: int = 0

    def version(self, reference: str) -> AdapterVersion:
        name, _, number = reference.partition("@")
        if not self.exists or name not in NAMES:
            raise AdapterUnavailableError(f"no model or adapter is called {reference}")
        number = number or str(CURRENT)
        return AdapterVersion(name, int(number), f"sha256:{name}{number}", 8, Path("none"))

    # AdapterCatalog
    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        terms = parse_stack(expression)
        return AdapterStack(tuple(StackMember(self.version(str(t.ref)), t.scale) for t in terms))

    def warnings(self, stack: AdapterStack) -> Sequence[str]:
        return ()

    def entry(self, reference: str) -> FakeEntry:
        version = self.version(reference)
        return FakeEntry(version.name, version, 1, f"{version.name}/{version.version}")

    def list(self) -> Sequence[FakeEntry]:
        return [self.entry(name) for name in NAMES] if self.exists else []

    def owners(self, path: str) -> Sequence[str]:
        _, root, *inside = path.split("/")
        return ("@".join(inside[:2]) if root == "store" else inside[0],)

    def load(self, name: str, path: str, *, replace: bool) -> AdapterVersion:
        if not self.exists:
            raise AdapterNotFoundError(f"No adapter found for '{path}'.")
        self.changed += 1
        return self.version(name)

    def unload(self, name: str) -> None:
        self._change(name)

    # AdapterAdministration
    def _change(self, reference: str) -> VersionReport:
        if not self.exists:
            raise AdapterNotFoundError(f"no adapter {reference}; did you mean {' or '.join(NAMES)}")
        self.changed += 1
        return version_report(self.version(reference).version)

    def _report(self, name: str) -> AdapterReport:
        versions = tuple(version_report(v, float(v == CURRENT)) for v in VERSIONS)
        return AdapterReport(name, CURRENT, versions)

    async def reports(self) -> Sequence[AdapterReport]:
        return [self._report(name) for name in NAMES] if self.exists else []

    async def describe(self, reference: str) -> AdapterDetail:
        version = self.version(reference)
        manifest = {"parent": f"{version.name}@1", "source": "/store/b/1", "parents": [
            {"label": f"{name}@{v}"} for name, v in sorted(ALL)]}  # fmt: skip
        return AdapterDetail(self._report(version.name), version.version, manifest, (), ())

    async def prefetch(self, reference: str) -> VersionReport:
        return self._change(reference)

    async def pin(self, reference: str, tier: Tier = Tier.HOST) -> VersionReport:
        return self._change(reference)

    async def unpin(self, reference: str) -> VersionReport:
        if not self.exists:
            raise AdapterUnavailableError(f"{reference} isn't pinned; pinned is: a, ab, b")
        return self._change(reference)

    async def set_alias(self, name: str, weights: Mapping[int, float]) -> AdapterReport:
        self._change(name)
        return self._report(name)

    async def remove(self, reference: str) -> None:
        self._change(reference)

    async def merge(self, order: MergeOrder) -> MergeResult:
        self._change(order.name)
        return MergeResult(f"{order.name}@1", "sha256:merged", 8, 0.0)


@dataclass(frozen=True)
class Try:
    """One request, and whether a grant allows it.

    What a refused one is about may be the key's `own`: it may know then whether that exists.
    """

    method: str
    url: str
    body: Any
    allowed: bool
    own: bool = False


REFERENCES = tuple(f"{n}{at}" for n in NAMES for at in ("", "@1", "@2", "@9"))
SOURCES = tuple(f"/store/{n}/{v}" for n, v in sorted(ALL)) + tuple(f"/roots/{n}/x" for n in NAMES)
HELLO = [{"role": "user", "content": "Hello"}]


def models(body: Mapping[str, Any], path: str, *, base_is_open: bool = False) -> Any:
    """A route whose body names a model: an adapter, a stack, or the base."""

    def tries(grant: Grant) -> Iterator[Try]:
        for model in REFERENCES:
            yield Try("POST", path, {**body, "model": model}, grant.has_meaning_of(model))
        for first, second in product(("a@1", "a", "b"), ("ab", "ab@1", "b@2")):
            allowed = grant.has_meaning_of(first) and grant.has_meaning_of(second)
            is_one = first.split("@")[0] == second.split("@")[0]
            if not is_one:
                yield Try("POST", path, {**body, "model": f"{first}+{second}:0.5"}, allowed)
        allowed = grant.base or base_is_open
        yield Try("POST", path, {**body, "model": BASE_ID}, allowed)

    return tries


def references(method: str, path: str, *, body: Any = None, whole: bool = False) -> Any:
    """A route with a reference in its path. `whole` ones take names alone."""

    def tries(grant: Grant) -> Iterator[Try]:
        for reference in REFERENCES:
            if not whole or "@" not in reference:
                url = path.replace("{name}", reference)
                yield Try(method, url, body, grant.has(reference))

    return tries


def models_by_id(grant: Grant) -> Iterator[Try]:
    for reference in REFERENCES:
        yield Try("GET", f"/v1/models/{reference}", None, grant.has_meaning_of(reference))
    yield Try("GET", f"/v1/models/{BASE_ID}", None, grant.base)


def removals(grant: Grant) -> Iterator[Try]:
    for reference in REFERENCES:
        name, at, version = reference.partition("@")
        # What the name means goes only with a right to the name.
        allowed = grant.has(name) if at and int(version) == CURRENT else grant.has(reference)
        own = bool(at) and grant.has(reference)
        yield Try("DELETE", f"/v1/adapters/{reference}", None, allowed, own)


def loads(grant: Grant) -> Iterator[Try]:
    for name, source in product(NAMES, SOURCES):
        _, root, *inside = source.split("/")
        owner = "@".join(inside) if root == "store" else inside[0]
        body = {"lora_name": name, "lora_path": source, "load_inplace": True}
        allowed = grant.has(name) and grant.has(owner)
        yield Try("POST", "/v1/load_lora_adapter", body, allowed)


def unloads(grant: Grant) -> Iterator[Try]:
    for name in NAMES:
        yield Try("POST", "/v1/unload_lora_adapter", {"lora_name": name}, grant.has(name))


def merges(grant: Grant) -> Iterator[Try]:
    for target, first, second in product(NAMES, ("a", "a@1", "b@2"), ("ab@2", "ab", "b")):
        body = {"name": target, "adapters": [{"name": first}, {"name": second}]}
        allowed = all(map(grant.has, (target, first, second)))
        yield Try("POST", "/v1/adapters/merge", body, allowed)


def asks(method: str, path: str, body: Any = None) -> Any:
    """A route that names no adapter, or lists what the key may use."""
    return lambda _grant: iter([Try(method, path, body, True)])


PROBES: Mapping[tuple[str, str], Any] = {
    ("GET", "/health"): asks("GET", "/health"),
    ("GET", "/health/live"): asks("GET", "/health/live"),
    ("GET", "/health/ready"): asks("GET", "/health/ready"),
    ("GET", "/version"): asks("GET", "/version"),
    ("GET", "/openapi.json"): asks("GET", "/openapi.json"),
    ("GET", "/metrics"): asks("GET", "/metrics"),
    ("GET", "/v1/limits"): asks("GET", "/v1/limits"),
    ("POST", "/v1/chat/completions"): models(
        {"messages": HELLO, "max_tokens": 1}, "/v1/chat/completions"
    ),
    ("POST", "/v1/completions"): models({"prompt": "x", "max_tokens": 1}, "/v1/completions"),
    ("POST", "/v1/responses"): models({"input": "x", "max_output_tokens": 1}, "/v1/responses"),
    # The base's tokenizer is everybody's.
    ("POST", "/tokenize"): models({"prompt": "x"}, "/tokenize", base_is_open=True),
    ("POST", "/detokenize"): models({"tokens": [1]}, "/detokenize", base_is_open=True),
    ("GET", "/v1/models"): asks("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id:path}"): models_by_id,
    ("GET", "/v1/adapters"): asks("GET", "/v1/adapters"),
    ("GET", "/v1/adapters/{name}"): references("GET", "/v1/adapters/{name}"),
    ("POST", "/v1/load_lora_adapter"): loads,
    ("POST", "/v1/unload_lora_adapter"): unloads,
    ("POST", "/v1/adapters/{name}/pin"): references("POST", "/v1/adapters/{name}/pin"),
    ("POST", "/v1/adapters/{name}/unpin"): references("POST", "/v1/adapters/{name}/unpin"),
    ("POST", "/v1/adapters/{name}/prefetch"): references("POST", "/v1/adapters/{name}/prefetch"),
    ("PUT", "/v1/adapters/{name}/alias"): references(
        "PUT", "/v1/adapters/{name}/alias", body={"version": 1}, whole=True
    ),
    ("DELETE", "/v1/adapters/{name}"): removals,
    ("POST", "/v1/adapters/merge"): merges,
}


def served(serving: FakeServing) -> set[tuple[str, str]]:
    """Method and path of every route, those of included routers too."""

    def routes(found: Sequence[Any]) -> Iterator[Route]:
        for route in found:
            if isinstance(route, Route):
                yield route
            else:
                inner = getattr(route, "original_router", None) or getattr(route, "router", None)
                yield from routes(inner.routes if inner is not None else [])

    return {
        (method, route.path)
        for route in routes(serving.app().routes)
        for method in (route.methods or set()) - {"HEAD"}
    }


def client_of(world: World, patterns: Sequence[str], rights: Sequence[str]) -> httpx.AsyncClient:
    key, record = make_key("me", adapters=patterns, rights=rights)
    serving = FakeServing(catalog=world, administration=world, keys=KeyRing([record]))  # type: ignore[arg-type]
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


EVERY_RIGHT = [right.value for right in sorted(ALL_RIGHTS, key=lambda r: r.value)]


def test_every_route_has_a_right_and_a_probe() -> None:
    routes = served(FakeServing())
    assert routes == set(RIGHTS), "a route without a right, or a right without a route"
    assert routes == set(PROBES), "a route without a probe, or a probe without a route"


@pytest.mark.parametrize("missing", list(Right), ids=lambda right: right.value)
async def test_a_right_opens_its_routes_and_no_others(missing: Right) -> None:
    held = [right for right in EVERY_RIGHT if right != missing.value]
    everything = GRANTS[-2]
    async with client_of(World(exists=True), everything.patterns, held) as client:
        for route, probe in PROBES.items():
            asked = next(iter(probe(everything)))
            answer = await client.request(asked.method, asked.url, json=asked.body)
            is_closed = RIGHTS[route] is missing and missing is not Right.METRICS
            assert (answer.status_code == 403) == is_closed, (route, answer.text)


@pytest.mark.parametrize("grant", GRANTS, ids=lambda grant: "+".join(grant.patterns) or "nothing")
async def test_patterns_bind_every_route(grant: Grant) -> None:
    """What isn't allowed is refused before anything changes, in words that are the same whether or
    not it exists."""
    full, empty = World(exists=True), World(exists=False)
    async with (
        client_of(full, grant.patterns, EVERY_RIGHT) as there,
        client_of(empty, grant.patterns, EVERY_RIGHT) as gone,
    ):
        for route, probe in PROBES.items():
            for asked in probe(grant):
                before = full.changed
                answer = await there.request(asked.method, asked.url, json=asked.body)
                where = f"{route} {asked.url} {asked.body}: {answer.text[:200]}"
                if asked.allowed:
                    assert answer.status_code == 200, where
                    continue
                assert answer.status_code in (403, 404), where
                assert full.changed == before, where
                if asked.own or grant.everything:
                    continue
                other = await gone.request(asked.method, asked.url, json=asked.body)
                assert (other.status_code, other.text) == (answer.status_code, answer.text), where


@pytest.mark.parametrize("grant", GRANTS, ids=lambda grant: "+".join(grant.patterns) or "nothing")
async def test_lists_and_details_show_only_what_is_granted(grant: Grant) -> None:
    async with client_of(World(exists=True), grant.patterns, EVERY_RIGHT) as client:
        cards = (await client.get("/v1/models")).json()["data"]
        named = [name for name in NAMES if grant.has(f"{name}@{CURRENT}")]
        assert [card["id"] for card in cards] == [*([BASE_ID] if grant.base else []), *named]
        reports = (await client.get("/v1/adapters")).json()["data"]
        shown = {(r["id"], v["version"]) for r in reports for v in r["versions"]}
        assert shown == {(n, v) for n, v in ALL if grant.has(f"{n}@{v}")}
        assert all(r["versions"] for r in reports)
        for report in reports:
            name = report["id"]
            assert report["current"] == (CURRENT if grant.has(f"{name}@{CURRENT}") else None)
        for name, version in ALL:
            if not grant.has(f"{name}@{version}"):
                continue
            detail = (await client.get(f"/v1/adapters/{name}@{version}")).json()
            told = [v["version"] for v in detail["versions"]]
            assert told == [v for v in VERSIONS if grant.has(f"{name}@{v}")]
            manifest = detail["manifest"]
            assert manifest["parent"] == (f"{name}@1" if grant.has(f"{name}@1") else None)
            assert (manifest["source"] is None) is not grant.everything
            assert all(grant.has(parent["label"]) for parent in manifest["parents"])
