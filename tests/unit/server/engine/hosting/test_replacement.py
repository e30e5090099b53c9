"""Replacing an adapter's bytes while streams run: nobody's answer mixes versions, nothing stays.

`python -m loadtests.replace_under_load` is the long version, over HTTP on a real model.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage
from adapters.store.store import AdapterStore
from server.core.request import FinishReason
from server.core.stack import AdapterStack
from server.engine.engine import Engine
from server.engine.hosting.catalog import CatalogChange, StoreCatalog
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.hosting.verified_loader import VerifiedLoader
from server.engine.metrics import EngineMetrics
from server.scheduling.scheduler import Scheduler
from tests.fakes.runner import FakeLoader, FakeRunner, expected_tokens
from tests.fakes.text import FakeTokenizer
from tests.unit.adapters.peft_folder import MODULES, write_folder
from tests.unit.server.engine.test_engine import EOS, SETTINGS, collect, request, text_of

NUM_REPLACEMENTS = 12
NUM_STREAMS = 4


class Harness:
    """A whole serving side over a fake model and a real store."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.store = AdapterStore(tmp_path / "store")
        self.registry = CollectorRegistry()
        self.metrics = EngineMetrics(self.registry)
        self.publish(1)
        self.catalog = StoreCatalog(
            self.store,
            served=ServedBase(BaseLineage(reference="base", digest="sha256:served")),
            base_modules=MODULES,
            allowed_roots=[],
        )
        self.scheduler = Scheduler(SETTINGS, eos_token_ids=EOS, base_digest="base")
        self.runner = FakeRunner(SETTINGS.block_size, step_seconds=0.001)
        self.loader = FakeLoader()
        self.cache = HostAdapterCache(
            VerifiedLoader(self.loader, self.catalog.quarantine),
            max_bytes=1000,
            metrics=self.metrics,
        )
        self.engine = Engine(
            self.scheduler,
            self.runner,
            FakeTokenizer(),
            self.cache,
            settings=SETTINGS,
            metrics=self.metrics,
            device="cpu",
        )

    def publish(self, fill: int, name: str = "sql") -> str:
        """New bytes under a name; returns their digest."""
        folder = write_folder(self.tmp_path / str(fill), fill=fill)
        return self.store.import_folder(name, folder).digest

    def count(self, version: int) -> float:
        labels = {"adapter": "sql", "version": str(version), "finish_reason": "length"}
        return (
            self.registry.get_sample_value("switchyard_adapter_version_requests_total", labels)
            or 0.0
        )


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    loop = asyncio.get_running_loop()

    def follow(change: CatalogChange) -> None:
        loop.call_soon_threadsafe(harness.engine.retire_adapters, change.digests, change.meant)

    harness.catalog.subscribe(follow)
    harness.engine.start()
    try:
        yield harness
    finally:
        await harness.engine.stop()
        harness.scheduler.check_integrity()
        assert harness.scheduler.slots.num_pinned == 0


async def _settled(harness: Harness) -> None:
    for _ in range(200):
        await asyncio.sleep(0.01)
        if not harness.scheduler.has_work and len(harness.engine.resident_adapters) <= 1:
            return


async def test_no_answer_mixes_versions_and_old_ones_leave(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        stop = asyncio.Event()
        served: list[str] = []

        async def ask_on(place: int) -> None:
            serial = place
            while not stop.is_set():
                serial += NUM_STREAMS
                stack = harness.catalog.resolve("sql")
                prompt = (8 + place, 9, 8 + serial % 60)
                wanted = request(prompt, stack, max_tokens=20, ignore_eos=True)
                deltas = await collect(harness.engine, wanted)
                assert deltas[-1].finish_reason is FinishReason.LENGTH
                # The fake model's tokens are a hash over every adapter page that they were read by.
                assert text_of(deltas) == _expected(wanted.stack, prompt)
                served.append(stack.expression)

        asking = [asyncio.create_task(ask_on(place)) for place in range(NUM_STREAMS)]
        last = ""
        for fill in range(2, NUM_REPLACEMENTS + 2):
            await asyncio.sleep(0.03)
            last = await asyncio.to_thread(harness.publish, fill)
            await asyncio.to_thread(harness.catalog.refresh, ["sql"])
        await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*asking)
        await _settled(harness)
        assert len(set(served)) > NUM_REPLACEMENTS // 2
        assert served[-1] == f"sql@{NUM_REPLACEMENTS + 1}", "new requests take the new version"
        assert harness.engine.resident_adapters == (last,), "old pages went with their last user"
        assert harness.cache.digests() == (last,)
        assert sum(map(harness.count, range(1, NUM_REPLACEMENTS + 2))) == len(served)


async def test_a_running_stream_keeps_its_version_until_it_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        old = harness.catalog.resolve("sql")
        prompt = (8, 9, 10)
        stream = harness.engine.generate(request(prompt, old, max_tokens=40, ignore_eos=True))
        deltas = [await anext(stream)]
        new = await asyncio.to_thread(harness.publish, 2)
        await asyncio.to_thread(harness.catalog.refresh, ["sql"])
        await collect(harness.engine, request(prompt, harness.catalog.resolve("sql")))
        assert set(harness.engine.resident_adapters) == {old.digest, new}
        deltas += [delta async for delta in stream]
        assert text_of(deltas) == _expected(old, prompt, 40)
        await _settled(harness)
        assert harness.engine.resident_adapters == (new,)


async def test_two_names_of_the_same_bytes_share_one_slot(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        digest = harness.publish(1, "other")
        harness.catalog.refresh()
        stacks = [harness.catalog.resolve(name) for name in ("sql", "other", "sql+other")]
        answers = await asyncio.gather(
            *(collect(harness.engine, request((8, 9, 10), stack)) for stack in stacks)
        )
        assert text_of(answers[0]) == text_of(answers[1])
        assert harness.engine.resident_adapters == (digest,)
        assert harness.loader.loads == [digest]
        # One name moves on: the bytes stay, because the other still means them.
        await asyncio.to_thread(harness.publish, 2)
        await asyncio.to_thread(harness.catalog.refresh, ["sql"])
        await asyncio.sleep(0.05)
        assert harness.engine.resident_adapters == (digest,)


def _expected(stack: AdapterStack, prompt: tuple[int, ...], max_tokens: int = 20) -> str:
    tokens = expected_tokens(prompt, stack, 5, max_tokens, frozenset())
    return FakeTokenizer().decode(tokens)
