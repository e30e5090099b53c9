"""What an operator sees and does, over a real store and a real host cache."""

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.compatibility import ServedBase
from adapters.errors import AdapterNotFoundError
from adapters.format.manifest import BaseLineage
from adapters.names import parse_ref
from adapters.store.keep_policy import KeepPolicy
from adapters.store.store import AdapterStore
from server.core.administration import MergeOrder, MergeResult, Tier
from server.core.errors import AdapterUnavailableError, PinLimitError
from server.core.ports import HostAdapter
from server.engine.administration.administration import Administration
from server.engine.hosting.catalog import StoreCatalog
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.metrics import EngineMetrics
from tests.fakes.runner import FakeLoader
from tests.unit.adapters.peft_folder import MODULES, write_folder

SERVED = ServedBase(BaseLineage(reference="base", digest="sha256:served"))


class FakeMerger:
    def __init__(self, store: AdapterStore, folder: Path) -> None:
        self._store, self._folder = store, folder

    async def merge(self, order: MergeOrder) -> MergeResult:
        stored = self._store.import_folder(order.name, self._folder)
        return MergeResult(stored.label, stored.digest, stored.rank, 0.0)


class FakeBank:
    """A `core.administration.DeviceBank` with room for one that is kept."""

    def __init__(self) -> None:
        self.resident_adapters: list[str] = []
        self.kept: list[str] = []

    async def keep_adapter(self, adapter: HostAdapter) -> str | None:
        if self.kept and adapter.digest not in self.kept:
            return "one is kept already"
        self.kept = [adapter.digest]
        self.resident_adapters.append(adapter.digest)
        return None

    def let_adapters_go(self, digests: Collection[str]) -> None:
        self.kept = [digest for digest in self.kept if digest not in digests]


class Harness:
    """A host cache of 250 bytes, where an adapter takes 100."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.store = AdapterStore(tmp_path / "store")
        for fill, name in enumerate(("a", "b", "c", "sql", "sql"), 1):
            self.publish(name, fill)
        self.catalog = StoreCatalog(
            self.store, served=SERVED, base_modules=MODULES, allowed_roots=[]
        )
        self.loader = FakeLoader()
        self.cache = HostAdapterCache(
            self.loader, max_bytes=250, metrics=EngineMetrics(CollectorRegistry())
        )
        self.bank = FakeBank()
        self.on_device = self.bank.resident_adapters
        self.administration = Administration(
            self.catalog,
            self.cache,
            bank=self.bank,
            merger=FakeMerger(self.store, tmp_path / "1"),
        )
        self.administration.follow_catalog()

    def publish(self, name: str, fill: int) -> None:
        folder = write_folder(self.tmp_path / str(fill), fill=fill)
        self.store.import_folder(name, folder)

    def digest(self, reference: str) -> str:
        return self.store.get(parse_ref(reference)).digest


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    yield harness
    harness.cache.check_integrity()
    harness.cache.close()


async def test_tiers(harness: Harness) -> None:
    administration = harness.administration
    tiers = {r.name: r.versions[0].tier for r in await administration.reports()}
    assert set(tiers.values()) == {Tier.DISK}
    assert (await administration.prefetch("a")).tier is Tier.HOST
    harness.on_device.append(harness.digest("b"))
    tiers = {r.name: r.versions[0].tier for r in await administration.reports()}
    assert tiers == {"a": Tier.HOST, "b": Tier.DEVICE, "c": Tier.DISK, "sql": Tier.DISK}


async def test_details(harness: Harness) -> None:
    detail = await harness.administration.describe("sql")
    assert [(v.version, v.weight) for v in detail.report.versions] == [(1, 0.0), (2, 1.0)]
    assert detail.version == 2
    assert detail.manifest["digest"] == harness.digest("sql")
    assert set(detail.matched_modules) == set(MODULES)
    assert (await harness.administration.describe("sql@1")).version == 1
    for reference in ("none", "sql@9", "a/b"):
        with pytest.raises(AdapterUnavailableError):
            await harness.administration.describe(reference)


async def test_pinned_adapters_stay_and_have_a_limit(harness: Harness) -> None:
    administration, cache = harness.administration, harness.cache
    assert (await administration.pin("a")).pinned_in is Tier.HOST
    for name in ("b", "c", "sql"):
        await administration.prefetch(name)
    assert harness.digest("a") in cache.digests()
    assert len(cache.digests()) == 2, "250 bytes hold two adapters of 100"
    await administration.pin("b")
    with pytest.raises(PinLimitError, match=r"200 of 250 are pinned already.*host_cache_gib"):
        await administration.pin("c")
    assert (await administration.prefetch("c")).tier is Tier.DISK, "served, but not kept"
    await administration.unpin("b")
    with pytest.raises(AdapterUnavailableError, match="b isn't pinned; pinned is: a"):
        await administration.unpin("b")
    assert (await administration.pin("c")).pinned_in is Tier.HOST


async def test_a_pinned_name_follows_its_alias(harness: Harness) -> None:
    administration, cache = harness.administration, harness.cache
    await administration.pin("sql")
    await administration.pin("sql@1")
    old, first = harness.digest("sql@2"), harness.digest("sql@1")
    await asyncio.to_thread(harness.publish, "sql", 9)
    await administration.unpin("sql@1")
    await asyncio.to_thread(harness.catalog.refresh)
    new = harness.digest("sql@3")
    for _ in range(200):
        if cache.is_pinned(new):
            break
        await asyncio.sleep(0.01)
    assert (cache.is_pinned(new), cache.is_pinned(old), cache.is_pinned(first)) == (
        True, False, False,
    )  # fmt: skip


async def test_pins_on_the_device(harness: Harness) -> None:
    administration, bank = harness.administration, harness.bank
    report = await administration.pin("a", Tier.DEVICE)
    assert (report.tier, report.pinned_in) == (Tier.DEVICE, Tier.DEVICE)
    assert harness.cache.is_pinned(harness.digest("a")), "in host memory too"
    with pytest.raises(PinLimitError, match="b@1 can't be pinned on the device: one is kept"):
        await administration.pin("b", Tier.DEVICE)
    assert not harness.cache.is_pinned(harness.digest("b")), "all or nothing"
    assert (await administration.pin("a", Tier.HOST)).pinned_in is Tier.HOST
    assert bank.kept == []
    await administration.pin("sql", Tier.DEVICE)
    await administration.pin("sql@2", Tier.HOST)
    await administration.unpin("sql")
    assert bank.kept == []
    assert harness.cache.is_pinned(harness.digest("sql@2")), "the other pin is in host memory"
    await administration.unpin("a")


async def test_a_pin_on_the_device_follows_its_name(harness: Harness) -> None:
    await harness.administration.pin("sql", Tier.DEVICE)
    await asyncio.to_thread(harness.publish, "sql", 9)
    await asyncio.to_thread(harness.catalog.refresh)
    for _ in range(200):
        if harness.bank.kept == [harness.digest("sql@3")]:
            break
        await asyncio.sleep(0.01)
    assert harness.bank.kept == [harness.digest("sql@3")]
    await harness.administration.remove("sql")
    assert harness.bank.kept == []


async def test_two_names_of_the_same_bytes_are_one_pin(harness: Harness) -> None:
    administration, cache = harness.administration, harness.cache
    await asyncio.to_thread(harness.publish, "same", 1)
    harness.catalog.refresh()
    assert harness.digest("same") == harness.digest("a")
    await administration.pin("a")
    await administration.pin("same")
    assert cache.num_pinned_bytes == 100
    await administration.unpin("a")
    assert cache.is_pinned(harness.digest("a")), "the other name still holds it"
    await administration.unpin("same")
    assert cache.num_pinned_bytes == 0
    assert harness.loader.loads.count(harness.digest("a")) == 1


async def test_aliases_removal_and_merges_show_at_once(harness: Harness) -> None:
    administration, catalog = harness.administration, harness.catalog
    report = await administration.set_alias("sql", {1: 0.5, 2: 0.5})
    assert [(v.version, v.weight) for v in report.versions] == [(1, 0.5), (2, 0.5)]
    found = {catalog.resolve("sql", f"user-{i}").expression for i in range(50)}
    assert found == {"sql@1", "sql@2"}
    await administration.set_alias("sql", {1: 1.0})
    assert catalog.resolve("sql").expression == "sql@1"
    await administration.pin("sql@2")
    await administration.remove("sql@2")
    assert harness.cache.num_pinned_bytes == 0
    with pytest.raises(AdapterUnavailableError):
        catalog.resolve("sql@2")
    await administration.remove("sql")
    with pytest.raises(AdapterNotFoundError):
        await administration.remove("sql")
    result = await administration.merge(MergeOrder("new", (("a", 1.0), ("b", 1.0)), "cat"))
    assert catalog.resolve("new").expression == result.label
    with pytest.raises(AdapterUnavailableError):
        await administration.merge(MergeOrder("new", (("a", 1.0), ("none", 1.0)), "cat"))


async def test_records_of_adapters_that_are_gone_are_forgotten(harness: Harness) -> None:
    cache = harness.cache
    for name in ("a", "b", "c", "sql"):
        await harness.administration.prefetch(name)
    kept = {harness.digest("a"), *cache.digests()}
    cache.forget_versions([harness.digest("a")])
    found = {d for d in map(harness.digest, ("a", "b", "c", "sql")) if cache.version_of(d)}
    assert found == kept


async def test_no_publisher_prunes_a_pinned_version(harness: Harness) -> None:
    administration, publisher = harness.administration, AdapterStore(harness.store.root)
    publisher.set_policy(KeepPolicy(1))
    await administration.pin("sql@1")
    await administration.pin("sql")
    publisher.import_folder("sql", harness.tmp_path / "1")
    assert publisher.versions("sql") == (1, 2, 3)
    publisher.import_folder("sql", harness.tmp_path / "2")
    assert publisher.versions("sql") == (1, 3, 4)
    await administration.unpin("sql@1")
    publisher.import_folder("sql", harness.tmp_path / "3")
    assert publisher.versions("sql") == (4, 5)


async def test_a_name_that_points_at_nothing_is_reported(harness: Harness) -> None:
    (harness.store.root / "sql" / "2" / "manifest.json").unlink()
    harness.catalog.refresh()
    report = next(r for r in await harness.administration.reports() if r.name == "sql")
    assert (report.current, [v.version for v in report.versions]) == (None, [1])
    assert report.problem is not None
    assert report.problem.startswith("points at nothing: sql@2 is damaged")
    assert report.remedy is not None
    assert "`adapters alias sql 1` rolls back" in report.remedy
    detail = await harness.administration.describe("sql")
    assert (detail.report.current, detail.version) == (None, 1)
    assert detail.report.problem == report.problem
    healed = await harness.administration.set_alias("sql", {1: 1.0})
    assert (healed.current, healed.problem) == (1, None)
