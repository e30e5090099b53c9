"""The HTTP application, put together from the parts that it is given."""

import importlib.metadata
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from adapters.errors import AdapterError
from server.api.access.callers import ANYONE, NOBODY, CurrentCaller
from server.api.access.deadlines import CurrentDeadline
from server.api.access.drain import Drain
from server.api.access.guard import BodyBytes, Door, GuardMiddleware
from server.api.access.guarded_administration import GuardedAdministration
from server.api.access.guarded_catalog import GuardedCatalog
from server.api.access.guarded_engine import GuardedEngine
from server.api.access.guarded_grammars import GuardedGrammars
from server.api.access.keys import KeyRing
from server.api.access.rate_limits import RateLimits
from server.api.access.route_table import (
    CHAT,
    COMPLETIONS,
    DOCUMENT,
    RESPONSES,
    allowed_methods,
)
from server.api.errors import (
    MethodNotAllowedError,
    UnknownUrlError,
    error_response,
    hides_a_path,
)
from server.api.generation.prompts import PromptTokens
from server.api.generation.serving import Serving
from server.api.openapi.document import openapi_document
from server.api.openapi.examples import with_examples
from server.api.requests.side_work import SideWork
from server.api.routes.adapter_routes import adapter_routes
from server.api.routes.administration_routes import administration_routes
from server.api.routes.limit_routes import limit_routes
from server.api.routes.model_routes import model_routes
from server.api.routes.operation_routes import operation_routes
from server.api.routes.token_routes import token_routes
from server.api.settings import ApiSettings
from server.api.telemetry.metrics import HttpMetrics, KeyMetrics
from server.api.telemetry.request_log import RequestLogMiddleware
from server.api.telemetry.tracing import TracedEngine, TraceMiddleware
from server.core.administration import AdapterAdministration
from server.core.errors import SwitchyardError
from server.core.grammar import GrammarCompiler
from server.core.limits import AdapterLimits
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog, ChatRenderer, ChatTokenizer, GenerationEngine

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)

VERSION = importlib.metadata.version("switchyard")

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    engine: GenerationEngine,
    catalog: AdapterCatalog,
    tokenizer: ChatTokenizer,
    renderer: ChatRenderer,
    grammars: GrammarCompiler,
    info: ModelInfo,
    *,
    limits: AdapterLimits,
    administration: AdapterAdministration,
    registry: CollectorRegistry,
    settings: ApiSettings | None = None,
    lifespan: Lifespan | None = None,
    before_scrape: Callable[[], None] = lambda: None,
    keys: KeyRing | None = None,
    drain: Drain | None = None,
    tracer: "Tracer | None" = None,
) -> FastAPI:
    """The ASGI application. Registers its own series on `registry`, so one app per registry.

    `limits` are what it tells those who make adapters; they are enforced elsewhere.
    `lifespan` runs on the event loop around the serving (start and stop the engine there);
    `before_scrape` is called before the registry is read for `/metrics`. Without `keys` everybody
    may do everything. `drain` closes the door when the server is told to stop; `tracer` gets spans.
    """
    settings, drain = settings or ApiSettings(), drain or Drain()
    rates, current = RateLimits(), CurrentCaller(ANYONE if keys is None else NOBODY)
    deadline, side = CurrentDeadline(settings.request_timeout_seconds), SideWork()

    def counted(num_tokens: int) -> None:
        rates.take_prompt(current.get(), num_tokens)

    engine = GuardedEngine(
        engine if tracer is None else TracedEngine(engine, tracer),
        current,
        deadline,
        rates,
        shares_prefixes=settings.share_prefix_cache,
        prompt_logger=tokenizer if settings.log_prompts else None,
    )
    catalog = GuardedCatalog(catalog, current)
    grammars = GuardedGrammars(grammars, current)
    document = openapi_document(VERSION)
    # FastAPI's own schema doesn't know bodies that are read by hand; /docs loads from a CDN.
    app = FastAPI(title="Switchyard", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_middleware(
        GuardMiddleware,
        door=Door(
            keys, rates, anyone=current.get(), metrics_are_open=not settings.metrics_need_key
        ),
        current=current,
        deadline=deadline,
        drain=drain,
        body_seconds=settings.body_seconds,
        body_bytes=BodyBytes(settings.max_bodies_bytes),
        side_work=side,
    )
    if tracer is not None:
        app.add_middleware(TraceMiddleware, tracer=tracer)
    # The last one added is the outermost.
    app.add_middleware(RequestLogMiddleware, metrics=HttpMetrics(registry))
    KeyMetrics(registry, keys)
    for kind in (SwitchyardError, AdapterError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)
    prompts = PromptTokens(tokenizer, renderer, info, side, current=current, deadline=deadline)
    serving = Serving(
        engine, catalog, tokenizer, grammars, info=info, settings=settings, prompts=prompts,
        side=side,
    )  # fmt: skip
    CHAT.on(app.router)(serving.chat)
    COMPLETIONS.on(app.router)(serving.complete)
    RESPONSES.on(app.router)(serving.respond)
    app.include_router(token_routes(tokenizer, catalog, info, settings, prompts, counted))
    app.include_router(model_routes(info, catalog, current))
    app.include_router(limit_routes(info, limits))
    app.include_router(adapter_routes(info, catalog, settings))
    guarded = GuardedAdministration(administration, current)
    app.include_router(administration_routes(guarded, info, settings))

    @DOCUMENT.on(app.router)
    async def show_document() -> Response:
        # Open to everybody: where there are keys, nobody's names are nothing.
        adapters = [entry.name for entry in catalog.list()]
        base = [info.base_id] if current.get().may_use_base else []
        return JSONResponse(with_examples(document, [*base, *adapters], adapters, info.vocab_size))

    app.include_router(
        operation_routes(
            engine,
            registry,
            version=VERSION,
            before_scrape=before_scrape,
            current=current,
        )
    )
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    """Any error as its row of the table says. Unforeseen ones are logged by the ASGI server."""
    told = _translated(request, error)
    if isinstance(told, SwitchyardError | AdapterError) and hides_a_path(told):
        logger.warning("the client isn't told the paths of: %s", told)
    return error_response(told)


def _translated(request: Request, error: Exception) -> Exception:
    """The router's own exceptions as ours."""
    if not isinstance(error, HTTPException):
        return error
    if error.status_code == 405:
        # The router knows the methods of the first route that matched, not of all.
        allowed = ", ".join(allowed_methods(request.url.path))
        return MethodNotAllowedError(
            f"{request.url.path} doesn't take {request.method}; it takes {allowed}", allowed
        )
    return UnknownUrlError(f"Unknown request URL: {request.method} {request.url.path}")
