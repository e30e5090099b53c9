"""A Prometheus histogram for the hot path: one thread observes, everybody may read."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import HistogramMetricFamily


class StepHistogram:
    """Without labels and without locks: an observation is one bisection and two additions.

    The library's own takes several locks for each, which is a noticeable part of what a token costs
    outside of the model. Registers itself on `registry`; observe it from one thread only.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        *,
        registry: CollectorRegistry,
        buckets: Iterable[float],
    ) -> None:
        self.name = name
        self._documentation = documentation
        self._bounds: Sequence[float] = (*buckets, math.inf)
        assert list(self._bounds) == sorted(set(self._bounds)), self._bounds
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        registry.register(self)

    def observe(self, amount: float) -> None:
        """Count `amount` in the first bucket whose bound isn't below it."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def describe(self) -> Iterator[Metric]:
        """What the registry must know of names."""
        yield HistogramMetricFamily(self.name, self._documentation)

    def collect(self) -> Iterator[Metric]:
        """The series as they are now; a sum may be one observation ahead of the counts."""
        counts = [float(total) for total in accumulate(self._counts)]
        bounds = ("+Inf" if bound == math.inf else str(float(bound)) for bound in self._bounds)
        family = HistogramMetricFamily(self.name, self._documentation)
        family.add_metric([], list(zip(bounds, counts, strict=True)), self._sum)
        yield family
