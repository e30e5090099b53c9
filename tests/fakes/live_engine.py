"""A live server: the real engine, scheduler, metrics and HTTP side over a fake model."""

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from server.api.access.drain import Drain
from server.api.access.keys import KeyRing
from server.api.app import create_app
from server.api.settings import ApiSettings
from server.core.model_info import ModelInfo
from server.core.settings import SchedulerSettings
from server.engine.engine import Engine
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.metrics import EngineMetrics
from server.scheduling.scheduler import Scheduler
from tests.fakes.api_administration import FakeAdministration
from tests.fakes.api_app import LIMITS
from tests.fakes.api_catalog import FakeCatalog
from tests.fakes.api_grammars import FakeGrammars
from tests.fakes.api_server import serve
from tests.fakes.api_tokenizer import VOCAB_SIZE, FakeRenderer, FakeTokenizer
from tests.fakes.runner import FakeLoader, FakeRunner

BASE_ID = "tiny-base"
SETTINGS = SchedulerSettings(
    max_num_sequences=16,
    max_batch_tokens=64,
    max_waiting=32,
    crowding=0.5,
    max_model_len=256,
    block_size=8,
    num_blocks=512,
    num_adapter_pages=16,
)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LiveEngine:
    """All parts, at hand for the test. `step_seconds` is how long a step takes; `clock` the
    engine's, in seconds."""

    def __init__(
        self,
        *,
        step_seconds: float = 0.0,
        settings: ApiSettings | None = None,
        keys: KeyRing | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.registry = CollectorRegistry()
        self.metrics = EngineMetrics(self.registry)
        self.runner = FakeRunner(SETTINGS.block_size, step_seconds=step_seconds)
        tokenizer = FakeTokenizer()
        self.scheduler = Scheduler(
            SETTINGS, eos_token_ids=tokenizer.eos_token_ids, base_digest="base"
        )
        self.catalog = FakeCatalog()
        self.cache = HostAdapterCache(FakeLoader(), max_bytes=10_000, metrics=self.metrics)
        self.engine = Engine(
            self.scheduler,
            self.runner,
            tokenizer,
            self.cache,
            settings=SETTINGS,
            metrics=self.metrics,
            device="cpu",
            clock=clock,
        )
        self.drain = Drain()
        self.app = create_app(
            self.engine,
            self.catalog,
            tokenizer,
            FakeRenderer(),
            FakeGrammars(),
            ModelInfo(
                BASE_ID, "tiny", SETTINGS.max_model_len, VOCAB_SIZE, 1_700_000_000, ("base",)
            ),
            limits=LIMITS,
            administration=FakeAdministration(),
            registry=self.registry,
            settings=settings,
            lifespan=self._lifespan,
            before_scrape=self._refresh_metrics,
            keys=keys,
            drain=self.drain,
        )

    def _refresh_metrics(self) -> None:
        self.engine.refresh_metrics()
        self.metrics.keep_adapters([entry.name for entry in self.catalog.list()])

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            await self.engine.stop()


@contextlib.contextmanager
def serve_engine(live: LiveEngine | None = None) -> Iterator[str]:
    """Serve it on a free port while the context lasts; yields its address."""
    with serve((live or LiveEngine()).app, lifespan="on") as address:
        yield address
