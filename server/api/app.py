"""The HTTP application, put together from the parts that it is given."""

import importlib.metadata
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from adapters.errors import AdapterError
from server.api.adapter_routes import adapter_routes
from server.api.announced_routes import announced_routes
from server.api.errors import MethodNotAllowedError, UnknownUrlError, error_response
from server.api.metrics import CountingMiddleware, HttpMetrics
from server.api.model_routes import model_routes
from server.api.operation_routes import operation_routes
from server.api.serving import Serving
from server.api.settings import ApiSettings
from server.core.errors import SwitchyardError
from server.core.model_info import ModelInfo
from server.core.ports import AdapterCatalog, ChatTokenizer, GenerationEngine

logger = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    engine: GenerationEngine,
    catalog: AdapterCatalog,
    tokenizer: ChatTokenizer,
    info: ModelInfo,
    *,
    registry: CollectorRegistry,
    settings: ApiSettings | None = None,
    lifespan: Lifespan | None = None,
    before_scrape: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The ASGI application. Registers its own series on `registry`, so one app per registry.

    `lifespan` runs on the event loop around the serving (start and stop the engine there);
    `before_scrape` is called before the registry is read for `/metrics`.
    """
    settings = settings or ApiSettings()
    # The schema would describe bodies that are read by hand, and /docs loads scripts from a CDN.
    app = FastAPI(title="Switchyard", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_middleware(CountingMiddleware, metrics=HttpMetrics(registry))
    for kind in (SwitchyardError, AdapterError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)
    serving = Serving(engine, catalog, tokenizer, info=info, settings=settings)
    app.add_api_route("/v1/chat/completions", serving.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", serving.complete, methods=["POST"], response_model=None)
    app.include_router(model_routes(info, catalog))
    app.include_router(adapter_routes(info, catalog, settings))
    app.include_router(announced_routes())
    app.include_router(
        operation_routes(
            engine,
            registry,
            version=importlib.metadata.version("switchyard"),
            before_scrape=before_scrape,
        )
    )
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    """Any error as its row of the table says. Unforeseen ones are logged by the ASGI server."""
    return error_response(_translated(request, error))


def _translated(request: Request, error: Exception) -> Exception:
    """The router's own exceptions as ours."""
    if not isinstance(error, HTTPException):
        return error
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return MethodNotAllowedError(
            f"{request.url.path} doesn't take {request.method}; it takes {allowed}", allowed
        )
    return UnknownUrlError(f"Unknown request URL: {request.method} {request.url.path}")
