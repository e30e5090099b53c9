"""The histogram of the hot path says the same as the library's own."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from server.engine.step_histogram import StepHistogram

AMOUNTS = (0.5, 1.0, 1.5, 2.0, 7.0, 0.0)


def test_it_counts_like_the_librarys_histogram() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = StepHistogram("x_seconds", "Text", registry=ours, buckets=(1, 2, 4))
    other = Histogram("x_seconds", "Text", registry=theirs, buckets=(1, 2, 4))
    for amount in AMOUNTS:
        mine.observe(amount)
        other.observe(amount)
    told = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == told
    assert b'x_seconds_bucket{le="+Inf"} 6.0' in openmetrics(ours)
