"""Counts HTTP answers; who may see which series."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
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


class KeyMetrics:
    """The series of the keys file on `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._valid = Gauge("switchyard_api_keys", "Keys that are valid now", registry=registry)
        self._is_refused = Gauge(
            "switchyard_keys_file_refused",
            "1 while the keys file can't be used and the keys stay as they were",
            registry=registry,
        )

    def follow(self, num_keys: int) -> None:
        """So many keys are valid, as the file says."""
        self._valid.set(num_keys)
        self._is_refused.set(0)

    def refuse(self) -> None:
        """The file can't be used."""
        self._is_refused.set(1)


class WithoutAdapters:
    """A registry's series but for those of single adapters: their names are their keys' matter."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """What an encoder asks of a registry."""
        for metric in self._registry.collect():
            samples = [sample for sample in metric.samples if "adapter" not in sample.labels]
            if samples or not metric.samples:
                shown = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                shown.samples = samples
                yield shown


def route_of(scope: Scope) -> str:
    """The pattern of the route that `scope` was matched to, or would have been."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        path = path_template(scope["method"], scope["path"])
    return path or _UNMATCHED
