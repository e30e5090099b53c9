"""Reading /metrics: sums, differences, and percentiles of a histogram's new observations."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from loadtests.harness.metrics_page import MetricsDelta, MetricsPage
from server.engine.metrics import EngineMetrics

PAGE = """\
# HELP switchyard_memory_bytes Bytes by component.
# TYPE switchyard_memory_bytes gauge
switchyard_memory_bytes{component="weights",device="cpu"} 1.048576e+08
switchyard_memory_bytes{device="cpu",component="kv_cache"} 52428800.0
switchyard_memory_bytes{device="cuda:0",component="weights"} 1048576.0
switchyard_num_requests_running 3.0
"""


def page_of(registry: CollectorRegistry) -> MetricsPage:
    return MetricsPage(generate_latest(registry).decode())


def test_memory_by_device_and_component() -> None:
    assert MetricsPage(PAGE).memory() == {
        ("cpu", "weights"): 104857600,
        ("cpu", "kv_cache"): 52428800,
        ("cuda:0", "weights"): 1048576,
    }


def test_a_page_of_another_server_gives_nothing() -> None:
    page = MetricsPage("up 1\n")
    assert page.memory() == {}
    assert page.process_bytes == 0
    delta = MetricsDelta(page, page)
    assert delta.python_share(1.0) is None
    assert delta.histogram_percentile("switchyard_adapter_load_seconds", 50) is None


def test_our_own_series_are_found_by_name() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    metrics.model_seconds.inc(5.0)
    before = page_of(registry)
    metrics.model_seconds.inc(3.0)
    metrics.device_memory["used"].labels("cpu").set(4096)
    metrics.requests.labels("a", "stop").inc()
    metrics.requests.labels("b", "length").inc(2)
    after = page_of(registry)
    delta = MetricsDelta(before, after)
    assert delta.python_share(4.0) == pytest.approx(0.25)
    assert delta.total("switchyard_requests_total") == 3
    assert after.process_bytes == 4096


def test_percentiles_are_of_the_new_observations_only() -> None:
    registry = CollectorRegistry()
    histogram = EngineMetrics(registry).adapter_load_seconds
    name = "switchyard_adapter_load_seconds"
    for _ in range(50):
        histogram.observe(5.0)
    before = page_of(registry)
    for _ in range(10):
        histogram.observe(0.03)
    delta = MetricsDelta(before, page_of(registry))
    assert delta.histogram_percentile(name, 50) == pytest.approx(0.0375)  # half of 0.025..0.05
    assert delta.histogram_percentile(name, 100) == pytest.approx(0.05)
    histogram.observe(1e6)
    delta = MetricsDelta(before, page_of(registry))
    assert delta.histogram_percentile(name, 100) == 60.0  # the last finite bound
