"""What operators and their tools ask: health, version, metrics."""

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.access.callers import CurrentCaller, Right
from server.api.access.route_table import HEALTH, LIVE, METRICS, READY, VERSION
from server.api.errors import NotReadyError
from server.api.telemetry.metrics import WithoutAdapters
from server.core.ports import GenerationEngine


def operation_routes(
    engine: GenerationEngine,
    registry: CollectorRegistry,
    *,
    version: str,
    before_scrape: Callable[[], None],
    current: CurrentCaller,
) -> APIRouter:
    """The routes that look but don't touch. `before_scrape` brings gauges up to date.

    The series of single adapters are for whoever has the right to the metrics.
    """
    router = APIRouter()

    @LIVE.on(router)
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @HEALTH.on(router)
    @READY.on(router)
    async def ready() -> Response:
        if not engine.is_ready:
            raise NotReadyError("the engine isn't stepping; see the server's log")
        return JSONResponse({"status": "ready"})

    @VERSION.on(router)
    async def show_version() -> Response:
        return JSONResponse({"version": version})

    @METRICS.on(router)
    async def metrics(request: Request) -> Response:
        before_scrape()
        names_adapters = Right.METRICS in current.get().rights
        shown = registry if names_adapters else WithoutAdapters(registry)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(shown), headers={"content-type": content_type})

    return router
