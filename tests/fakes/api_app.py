"""The application over fakes, as the tests of the api start it."""

from dataclasses import dataclass, field

from fastapi import FastAPI
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage
from server.api.access.drain import Drain
from server.api.access.keys import KeyRing
from server.api.app import create_app
from server.api.settings import ApiSettings
from server.core.administration import AdapterAdministration
from server.core.limits import AdapterLimits
from server.core.model_info import ModelInfo
from server.core.ports import ChatRenderer, ChatTokenizer
from tests.fakes.api_administration import FakeAdministration
from tests.fakes.api_catalog import FakeCatalog
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_grammars import FakeGrammars
from tests.fakes.api_tokenizer import VOCAB_SIZE, FakeRenderer, FakeTokenizer

BASE_ID = "org/tiny-base"
LIMITS = AdapterLimits(
    ServedBase(BaseLineage(reference="embedded:tiny", digest=f"sha256:{'0' * 64}"))
)
INFO = ModelInfo(BASE_ID, "embedded:tiny", 256, VOCAB_SIZE, 1_700_000_001, ("base",))


@dataclass
class FakeServing:
    """All parts of one application, at hand for the test."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    catalog: FakeCatalog = field(default_factory=FakeCatalog)
    administration: AdapterAdministration = field(default_factory=FakeAdministration)
    grammars: FakeGrammars = field(default_factory=FakeGrammars)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    settings: ApiSettings = field(default_factory=ApiSettings)
    scrapes: list[int] = field(default_factory=list)
    keys: KeyRing | None = None
    info: ModelInfo = INFO
    drain: Drain = field(default_factory=Drain)
    tracer: Tracer | None = None
    tokenizer: ChatTokenizer = field(default_factory=FakeTokenizer)
    renderer: ChatRenderer = field(default_factory=FakeRenderer)

    def app(self) -> FastAPI:
        return create_app(
            self.engine,
            self.catalog,
            self.tokenizer,
            self.renderer,
            self.grammars,
            self.info,
            limits=LIMITS,
            administration=self.administration,
            registry=self.registry,
            settings=self.settings,
            before_scrape=lambda: self.scrapes.append(len(self.scrapes)),
            keys=self.keys,
            drain=self.drain,
            tracer=self.tracer,
        )
