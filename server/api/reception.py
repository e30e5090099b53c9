"""What answers at the port from the first moment on, before there is a model to serve."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.access.callers import ANYONE, NOBODY, CurrentCaller
from server.api.access.deadlines import CurrentDeadline
from server.api.access.drain import Drain
from server.api.access.guard import BodyBytes, Door, GuardMiddleware
from server.api.access.keys import KeyRing
from server.api.access.rate_limits import RateLimits
from server.api.access.route_table import (
    LIVE,
    METRICS,
    VERSION,
    Route,
    allowed_methods,
    route_for,
)
from server.api.app import VERSION as SERVER_VERSION
from server.api.errors import (
    MethodNotAllowedError,
    NotReadyError,
    UnknownUrlError,
    error_response,
)
from server.api.requests.side_work import SideWork
from server.api.settings import ApiSettings
from server.api.telemetry.metrics import HttpMetrics
from server.api.telemetry.request_log import RequestLogMiddleware
from server.core.errors import SwitchyardError


class Reception:
    """The ASGI application that a server shows: the waiting room's, and after `open` the real one.

    A request stays with the application that it began with.
    """

    def __init__(self, waiting_room: ASGIApp) -> None:
        self._app = waiting_room

    def open(self, app: ASGIApp) -> None:
        """From now on requests go to `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def waiting_room(settings: ApiSettings, keys: KeyRing | None, drain: Drain) -> ASGIApp:
    """The application of a server that loads: it is alive, and everything else waits.

    Keys and rights hold as they will, so nobody learns more from it than later.
    """
    registry, current = CollectorRegistry(), CurrentCaller(ANYONE if keys is None else NOBODY)
    app: ASGIApp = _WaitingRoom(registry)
    app = GuardMiddleware(
        app,
        door=Door(
            keys,
            RateLimits(),
            anyone=current.get(),
            metrics_are_open=not settings.metrics_need_key,
        ),
        current=current,
        deadline=CurrentDeadline(settings.request_timeout_seconds),
        drain=drain,
        body_seconds=settings.body_seconds,
        body_bytes=BodyBytes(settings.max_bodies_bytes),
        side_work=SideWork(),
    )
    return RequestLogMiddleware(app, metrics=HttpMetrics(registry))


class _WaitingRoom:
    """Answers behind the door."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._always_open: Mapping[Route, Callable[[Scope], Response]] = {
            LIVE: _live,
            VERSION: _version,
            METRICS: self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        try:
            response = self._answer(scope)
        except SwitchyardError as error:
            response = error_response(error)
        await response(scope, receive, send)

    def _answer(self, scope: Scope) -> Response:
        method, path = scope["method"], scope["path"]
        route = route_for(method, path)
        if route is None:
            if allowed := ", ".join(allowed_methods(path)):
                raise MethodNotAllowedError(
                    f"{path} doesn't take {method}; it takes {allowed}", allowed
                )
            raise UnknownUrlError(f"Unknown request URL: {method} {path}")
        if not route.is_always_open:
            raise NotReadyError("the server is loading its model; try again in a moment")
        return self._always_open[route](scope)

    def _metrics(self, scope: Scope) -> Response:
        encode, content_type = choose_encoder(Headers(scope=scope).get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})


def _live(_: Scope) -> Response:
    return JSONResponse({"status": "live"})


def _version(_: Scope) -> Response:
    return JSONResponse({"version": SERVER_VERSION})
