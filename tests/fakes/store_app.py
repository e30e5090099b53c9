"""The application over a real store, catalog, administration and engine; only the model is fake."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry

from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage
from adapters.store.store import AdapterStore
from server.api.access.keys import KeyRecord, KeyRing
from server.api.app import create_app
from server.api.settings import ApiSettings
from server.core.administration import MergeOrder, MergeResult
from server.core.model_info import ModelInfo
from server.engine.administration.administration import Administration
from server.engine.engine import Engine
from server.engine.hosting.catalog import StoreCatalog
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.metrics import EngineMetrics
from server.scheduling.scheduler import Scheduler
from tests.fakes.api_app import LIMITS
from tests.fakes.api_grammars import FakeGrammars
from tests.fakes.api_tokenizer import VOCAB_SIZE, FakeRenderer, FakeTokenizer
from tests.fakes.live_engine import BASE_ID, SETTINGS
from tests.fakes.runner import FakeLoader, FakeRunner
from tests.unit.adapters.peft_folder import MODULES, write_folder

SERVED = ServedBase(BaseLineage(reference="base", digest="sha256:served"))


class _Merger:
    """Publishes a folder of its own, whatever is to be merged."""

    def __init__(self, store: AdapterStore, folder: Path) -> None:
        self._store, self._folder = store, folder

    async def merge(self, order: MergeOrder) -> MergeResult:
        stored = self._store.import_folder(order.name, self._folder)
        return MergeResult(stored.label, stored.digest, stored.rank, 0.0)


class StoreApp:
    """`names` are published in `root`/store, each as often as it says; `root`/uploads may be loaded
    from, and holds a folder for each name. An adapter takes 100 bytes of `host_cache_bytes`."""

    def __init__(
        self,
        root: Path,
        names: Mapping[str, int],
        records: Sequence[KeyRecord],
        settings: ApiSettings | None = None,
        *,
        host_cache_bytes: int = 100_000,
    ) -> None:
        self.root = root
        self.store = AdapterStore(root / "store")
        fill = 0
        for name, count in names.items():
            for version in range(1, count + 1):
                fill += 1
                made = write_folder(root / "made" / f"{name}-{version}", fill=fill)
                self.store.import_folder(name, made)
            write_folder(root / "uploads" / name / "run", fill=100 + fill)
        self.registry = CollectorRegistry()
        metrics = EngineMetrics(self.registry)
        tokenizer = FakeTokenizer()
        self.catalog = StoreCatalog(
            self.store,
            served=SERVED,
            base_modules=MODULES,
            allowed_roots=[self.store.root, root / "uploads"],
        )
        cache = HostAdapterCache(FakeLoader(), max_bytes=host_cache_bytes, metrics=metrics)
        scheduler = Scheduler(SETTINGS, eos_token_ids=tokenizer.eos_token_ids, base_digest="base")
        self._engine = Engine(
            scheduler,
            FakeRunner(SETTINGS.block_size),
            tokenizer,
            cache,
            settings=SETTINGS,
            metrics=metrics,
            device="cpu",
        )
        merged = write_folder(root / "made" / "merged", fill=99)
        self.app = create_app(
            self._engine,
            self.catalog,
            tokenizer,
            FakeRenderer(),
            FakeGrammars(),
            ModelInfo(BASE_ID, "tiny", SETTINGS.max_model_len, VOCAB_SIZE, 1, ("base",)),
            limits=LIMITS,
            administration=Administration(
                self.catalog, cache, bank=self._engine, merger=_Merger(self.store, merged)
            ),
            registry=self.registry,
            settings=settings,
            keys=KeyRing(records),
        )

    @asynccontextmanager
    async def clients(self, keys: Collection[str]) -> AsyncIterator[list[httpx.AsyncClient]]:
        """A client for each key, while the engine runs."""
        self._engine.start()
        clients = [
            httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
                base_url="http://test",
                headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            )
            for key in keys
        ]
        try:
            yield clients
        finally:
            for client in clients:
                await client.aclose()
            await self._engine.stop()
