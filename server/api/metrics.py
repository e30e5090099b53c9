"""Counts HTTP answers."""

from prometheus_client import CollectorRegistry, Counter
from starlette.types import Scope

from server.api.rights import path_template

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
        """One more answer for the route that `scope` is for."""
        self.requests.labels(route_of(scope), str(status)).inc()


def route_of(scope: Scope) -> str:
    """The pattern of the route that `scope` was matched to, or would have been."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        path = path_template(scope["method"], scope["path"])
    return path or _UNMATCHED
