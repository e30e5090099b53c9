"""What one key's owner sees doesn't depend on what another one does.

The same script of one tenant runs twice, alone and beside another tenant who sends the same prompts
and tries to reach everything; every answer must be the same, but for ids and times.
"""

import asyncio
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.settings import ApiSettings
from tests.fakes.api_keys import make_key
from tests.fakes.live_engine import BASE_ID
from tests.fakes.store_app import StoreApp

RIGHTS = ["infer", "load", "admin"]
NAMES = {"a": 2, "a-two": 1, "b": 2, "b-two": 1}
PROMPTS = [word * 6 for word in ("the same for all ", "another one ", "and a third ")]
TIMES_AND_IDS = re.compile(
    r'"(id|created|created_at|created_unix_seconds|item_id)": ?("[^"]*"|\d+)'
)
HEADERS_OF_ONE_ANSWER = {"x-request-id", "date", "content-length"}

Answer = tuple[int, str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Call:
    """One request of a script; `{root}` stands for the folder that all lies in."""

    method: str
    url: str
    body: Any = None

    async def send(self, client: httpx.AsyncClient, root: Path) -> httpx.Response:
        text = json.dumps(self.body).replace("{root}", str(root))
        return await client.request(
            self.method, self.url, content=text if self.body is not None else None
        )


class Script:
    """Random operations of the tenant whose names begin with `mine`; some reach for the other's."""

    def __init__(self, mine: str, other: str, seed: int) -> None:
        self._mine, self._other = mine, other
        self._draw = random.Random(seed)

    def __iter__(self) -> Iterator[Call]:
        while True:
            self._whose = self._draw.choices((self._mine, self._other), (4, 1))[0]
            self._name = self._whose + self._draw.choice(("", "-two", "-new", "-none"))
            self._reference = self._name + self._draw.choice(("", "", "@1", "@2", "@3"))
            yield self._draw.choices(
                (self._generate, self._look, self._keep, self._point, self._remove, self._load,
                 self._unload, self._merge),
                (6, 3, 2, 1, 1, 2, 1, 1),
            )[0]()  # fmt: skip

    def _generate(self) -> Call:
        draw = self._draw
        stack = f"{self._mine}+{self._name}:0.5"
        body: dict[str, Any] = {
            "model": draw.choice((self._reference, self._reference, BASE_ID, stack)),
            "max_tokens": draw.randint(1, 6),
            "seed": draw.randrange(3),
            "temperature": draw.choice((0, 1)),
        }
        if draw.random() < 0.2:
            body["cache_salt"] = draw.choice("xy")
        if draw.random() < 0.1:
            body["guided_json"] = {"type": "object"}
        prompt = draw.choice(PROMPTS)
        if draw.random() < 0.6:
            return Call("POST", "/v1/completions", {**body, "prompt": prompt})
        chat = [{"role": "user", "content": prompt}]
        return Call("POST", "/v1/chat/completions", {**body, "messages": chat})

    def _look(self) -> Call:
        lists = ("/v1/models", "/v1/adapters")
        shown = [f"{path}/{self._reference}" for path in lists]
        return Call("GET", self._draw.choice((*lists, *shown)))

    def _keep(self) -> Call:
        verb = self._draw.choice(("pin", "unpin", "prefetch"))
        return Call("POST", f"/v1/adapters/{self._reference}/{verb}")

    def _point(self) -> Call:
        body = self._draw.choice(({"version": 1}, {"weights": {"1": 0.5, "2": 0.5}}))
        return Call("PUT", f"/v1/adapters/{self._name}/alias", body)

    def _remove(self) -> Call:
        return Call("DELETE", f"/v1/adapters/{self._reference}")

    def _load(self) -> Call:
        draw = self._draw
        upload = draw.choice((self._whose, f"{self._whose}-two", "nobody"))
        sources = (f"uploads/{upload}/run", f"store/{self._name}/{draw.randint(1, 3)}")
        path = "{root}/" + draw.choice(sources)
        names = {"lora_name": self._name, "lora_path": path}
        return Call("POST", "/v1/load_lora_adapter", {**names, "load_inplace": True})

    def _unload(self) -> Call:
        return Call("POST", "/v1/unload_lora_adapter", {"lora_name": self._name})

    def _merge(self) -> Call:
        parents = [{"name": self._mine}, {"name": self._reference}]
        body = {"name": f"{self._whose}-merged", "adapters": parents}
        return Call("POST", "/v1/adapters/merge", body)


def observed(answer: httpx.Response, root: Path) -> Answer:
    """All that its receiver can tell of an answer, but for ids, times and where the test runs."""
    body = TIMES_AND_IDS.sub("", answer.text).replace(str(root), "{root}")
    # A seal is the hash of a manifest, which holds a time.
    body = re.sub(r"(chatcmpl|cmpl)-\w+|\"seal\":\"sha256:\w+\"", "", body)
    headers = sorted((k, v) for k, v in answer.headers.items() if k not in HEADERS_OF_ONE_ANSWER)
    return answer.status_code, body, tuple(headers)


@dataclass(frozen=True)
class Tenants:
    """Two keys, the same in every run: a canary's side depends on the key's id."""

    keys: tuple[str, str]
    records: tuple[Any, Any]


@pytest.fixture(scope="module")
def tenants() -> Tenants:
    first, mine = make_key("mine", adapters=["a*", "base"], rights=RIGHTS)
    second, theirs = make_key("theirs", adapters=["b*", "base"], rights=RIGHTS)
    return Tenants((first, second), (mine, theirs))


async def run(
    root: Path, tenants: Tenants, seed: int, *, beside: int, settings: ApiSettings | None = None
) -> list[tuple[Call, Answer]]:
    """The first tenant's script and what it got, with `beside` calls of the other's to each."""
    app = StoreApp(root, NAMES, tenants.records, settings)
    theirs = iter(Script("b", "a", seed + 1))
    seen = []
    async with app.clients(tenants.keys) as (client, other):
        for call in itertools.islice(Script("a", "b", seed), 60):
            for earlier in [next(theirs) for _ in range(beside)]:
                await earlier.send(other, root)
            at_once = [next(theirs).send(other, root) for _ in range(beside)]
            answer, *_ = await asyncio.gather(call.send(client, root), *at_once)
            seen.append((call, observed(answer, root)))
    return seen


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
async def test_answers_are_the_same_alone_and_beside_another(
    tmp_path: Path, tenants: Tenants, seed: int
) -> None:
    alone = await run(tmp_path / "alone", tenants, seed, beside=0)
    beside = await run(tmp_path / "beside", tenants, seed, beside=1)
    for (call, expected), (_, got) in zip(alone, beside, strict=True):
        assert got == expected, call
    statuses = {status for _, (status, _, _) in alone}
    assert {200, 403, 404} <= statuses, "the script tried too little"
    assert not [call for call, (_, body, _) in alone if "internal_error" in body]


async def test_the_comparison_sees_a_shared_cache(tmp_path: Path, tenants: Tenants) -> None:
    shared = ApiSettings(share_prefix_cache=True)
    alone = await run(tmp_path / "alone", tenants, 0, beside=0, settings=shared)
    beside = await run(tmp_path / "beside", tenants, 0, beside=1, settings=shared)
    assert alone != beside


def cached(answer: httpx.Response) -> int:
    found: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


@pytest.mark.parametrize("shares", [False, True])
async def test_cached_prompts_are_each_keys_own_unless_the_operator_shares_them(
    tmp_path: Path, tenants: Tenants, shares: bool
) -> None:
    app = StoreApp(tmp_path, NAMES, tenants.records, ApiSettings(share_prefix_cache=shares))
    body = {"model": BASE_ID, "prompt": PROMPTS[0], "max_tokens": 1}
    async with app.clients(tenants.keys) as (first, second):
        assert cached(await first.post("/v1/completions", json=body)) == 0
        again = cached(await first.post("/v1/completions", json=body))
        assert again > 80
        assert cached(await second.post("/v1/completions", json=body)) == (again if shares else 0)


ENDPOINTS = {
    "/v1/completions": {"prompt": PROMPTS[0], "max_tokens": 1},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 1,
    },
    "/v1/responses": {"input": PROMPTS[0], "max_output_tokens": 1},
}  # fmt: skip


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("shares", [False, True])
async def test_a_salt_divides_cached_prompts(
    tmp_path: Path, tenants: Tenants, path: str, shares: bool
) -> None:
    app = StoreApp(tmp_path, NAMES, tenants.records, ApiSettings(share_prefix_cache=shares))
    async with app.clients(tenants.keys) as (first, second):

        async def ask(client: httpx.AsyncClient, **salt: Any) -> int:
            body = {"model": BASE_ID, **ENDPOINTS[path], **salt}
            usage = (await client.post(path, content=json.dumps(body))).json()["usage"]
            kind = "input_tokens_details" if "input_tokens" in usage else "prompt_tokens_details"
            found: int = usage[kind]["cached_tokens"]
            return found

        assert await ask(first, cache_salt="x") == 0
        whole = await ask(first, cache_salt="x")
        assert whole > 80
        assert await ask(first, cache_salt="y") == 0
        assert await ask(first) == 0
        assert await ask(first, cache_salt=None) > 80, "null is no salt"
        # A salt that looks like a key's id isn't one.
        own = tenants.records[0].id
        assert await ask(second, cache_salt=own) == 0
        assert await ask(second, cache_salt=f"{own}/x") == 0
        assert await ask(second, cache_salt="x") == (whole if shares else 0)
        for wrong in ("", 3, ["x"]):
            body = {"model": BASE_ID, **ENDPOINTS[path], "cache_salt": wrong}
            refused = await first.post(path, content=json.dumps(body))
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"] == "cache_salt"
