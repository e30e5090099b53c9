"""Counts HTTP answers."""

from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNMATCHED = "unmatched"


class HttpMetrics:
    """The HTTP series on `registry`. Routes are labelled by their pattern, never by a client."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "switchyard_http_requests_total",
            "HTTP answers begun",
            ("route", "status"),
            registry=registry,
        )

    def count(self, scope: Scope, status: int) -> None:
        """One more answer for the route that `scope` was matched to."""
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        self.requests.labels(route, str(status)).inc()


class CountingMiddleware:
    """Counts an answer when it begins, so that endless streams are seen too."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def counting_send(message: Message) -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                self._metrics.count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        except Exception:
            if not has_begun:
                self._metrics.count(scope, 500)
            raise
