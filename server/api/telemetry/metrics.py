"""Counts HTTP answers; who may see which series."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.samples import Sample
from starlette.types import Scope

from server.api.access.keys import KeyRing
from server.api.access.route_table import route_for

_UNMATCHED = "unmatched"
_ADAPTER_LABELS = frozenset({"adapter", "version"})


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
    """The series of `keys` on `registry`, as they are when they are read; 0 without keys."""

    def __init__(self, registry: CollectorRegistry, keys: KeyRing | None) -> None:
        keys = keys if keys is not None else KeyRing()
        valid = Gauge("switchyard_api_keys", "Keys that are valid now", registry=registry)
        valid.set_function(lambda: len(keys))
        is_refused = Gauge(
            "switchyard_keys_file_refused",
            "1 while the keys file can't be used and the keys stay as they were",
            registry=registry,
        )
        is_refused.set_function(lambda: keys.is_file_refused)


class WithoutAdapters:
    """A registry's series summed over adapters: their names are their keys' matter.

    Totals stay what they are, so alerts and whole-server panels need no right to see them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """What an encoder asks of a registry."""
        for metric in self._registry.collect():
            shown = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            shown.samples = _summed(metric.samples)
            yield shown


def _summed(samples: Iterable[Sample]) -> list[Sample]:
    """Samples without the labels of adapters; those that become one series are added up."""
    summed: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    for sample in samples:
        labels = {k: v for k, v in sample.labels.items() if k not in _ADAPTER_LABELS}
        key = (sample.name, frozenset(labels.items()))
        value = sample.value
        if key in summed:
            before = summed[key].value
            # OpenMetrics tells when a series began, as a sample of its own.
            is_beginning = sample.name.endswith("_created")
            value = min(before, value) if is_beginning else before + value
        summed[key] = sample._replace(labels=labels, value=value, exemplar=None)
    return list(summed.values())


def route_of(scope: Scope) -> str:
    """The pattern of the route that `scope` was matched to, or would have been."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        route = route_for(scope["method"], scope["path"])
        path = None if route is None else route.path
    return path or _UNMATCHED
