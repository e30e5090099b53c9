"""What a server says of itself: one read of `/metrics`, and the difference between two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from loadtests.harness.http_client import HttpClientError
from loadtests.harness.server_process import get

MODEL_SECONDS = "switchyard_model_seconds_total"
PROCESS_BYTES = "switchyard_device_memory_used_bytes"
_COMPONENT_BYTES = "switchyard_memory_bytes"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the page."""

    labels: Mapping[str, str]
    value: float


class MetricsPage:
    """The samples of one page by name, as on the page (`..._total`, `..._bucket`)."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                kept = self._samples.setdefault(sample.name, [])
                kept.append(Sample(dict(sample.labels), sample.value))

    def __contains__(self, name: str) -> bool:
        return name in self._samples

    def samples(self, name: str) -> Sequence[Sample]:
        """Every line of that name; none when the server hasn't such a series."""
        return self._samples.get(name, ())

    def total(self, name: str) -> float:
        """The sum over all labels, 0.0 for a series that isn't there."""
        return sum(sample.value for sample in self.samples(name))

    def memory(self) -> dict[tuple[str, str], int]:
        """(device, component) -> bytes; empty when the server doesn't tell."""
        return {
            (s.labels.get("device", "?"), s.labels.get("component", "?")): int(s.value)
            for s in self.samples(_COMPONENT_BYTES)
        }

    @property
    def process_bytes(self) -> int:
        """Memory of the server's process on a CPU, of its part of the device on a GPU."""
        return int(self.total(PROCESS_BYTES))


@dataclass(frozen=True)
class MetricsDelta:
    """What happened between two pages of one server."""

    before: MetricsPage
    after: MetricsPage

    def total(self, name: str) -> float:
        """By how much a counter rose, over all labels."""
        return self.after.total(name) - self.before.total(name)

    def python_share(self, wall_seconds: float) -> float | None:
        """Part of the wall time that wasn't spent in the model's forward.

        While the server is saturated that is scheduling, sampling, text and HTTP on the step's
        path. None when the server doesn't count its model seconds.
        """
        if MODEL_SECONDS not in self.after:
            return None
        return 1.0 - self.total(MODEL_SECONDS) / wall_seconds

    def histogram_percentile(self, name: str, share: float) -> float | None:
        """Percentile of a histogram's new observations, linear within the bucket it falls into.

        As exact as the buckets; a value over the last finite bound is given as that bound. None
        when nothing was observed.
        """
        counts = self._bucket_counts(name)
        if not counts or counts[-1][1] <= 0:
            return None
        wanted = counts[-1][1] * share / 100.0
        low_bound, low_count = 0.0, 0.0
        for bound, count in counts:
            if bound == float("inf"):
                break
            if count >= wanted and count > low_count:
                return low_bound + (bound - low_bound) * (wanted - low_count) / (count - low_count)
            low_bound, low_count = bound, count
        return low_bound

    def _bucket_counts(self, name: str) -> list[tuple[float, float]]:
        """(upper bound, observations up to it) over all labels, by bound."""
        counts: dict[float, float] = {}
        for page, sign in ((self.after, 1.0), (self.before, -1.0)):
            for sample in page.samples(f"{name}_bucket"):
                bound = float(sample.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + sign * sample.value
        return sorted(counts.items())


async def read_metrics(url: str) -> MetricsPage:
    """Read `/metrics` now. Raises `HttpClientError` when there is none."""
    status, text = await get(url, "/metrics")
    if status != 200:
        raise HttpClientError(f"{url}/metrics answered {status}: is this a Switchyard server?")
    return MetricsPage(text)
