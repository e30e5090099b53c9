"""The series of the public contract, and how many of them there may be."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from server.api.telemetry.metrics import HttpMetrics
from server.core.stack import AdapterVersion
from server.engine.metrics import EngineMetrics
from server.engine.step_histogram import StepHistogram

PREFIX = "switchyard_"
# From the wire contract: name -> labels.
CONTRACT = {
    **dict.fromkeys(
        ["num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio",
         "adapter_slots_used", "adapter_slots_total", "prefix_cache_queries", "prefix_cache_hits",
         "preemptions", "adapter_cache_hits", "adapter_cache_misses", "adapter_cache_evictions",
         "inter_token_latency_seconds", "e2e_request_latency_seconds",
         "request_queue_time_seconds", "prefill_seconds", "decode_seconds", "adapter_load_seconds",
         "step_seconds", "batch_size", "adapters_per_step"],
        (),
    ),
    "memory_bytes": ("device", "component"),
    "device_memory_used_bytes": ("device",),
    "device_memory_free_bytes": ("device",),
    "device_memory_total_bytes": ("device",),
    "adapter_resident": ("adapter", "version", "tier"),
    "adapter_bytes": ("adapter", "version"),
    "prompt_tokens": ("adapter",),
    "generation_tokens": ("adapter",),
    "requests": ("adapter", "finish_reason"),
    "adapter_loads": ("result",),
    "http_requests": ("route", "status"),
    "time_to_first_token_seconds": ("adapter",),
}  # fmt: skip


def adapter(name: str, version: int = 1) -> AdapterVersion:
    return AdapterVersion(name, version, f"{name}{version}", 8, Path("none"))


def test_every_series_of_the_contract_is_there_with_its_labels() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    http = HttpMetrics(registry)
    found = {}
    for holder in (metrics, http):
        for value in vars(holder).values():
            for series in value.values() if isinstance(value, dict) else [value]:
                if isinstance(series, StepHistogram):
                    found[series.name.removeprefix(PREFIX)] = ()
                if hasattr(series, "_labelnames"):
                    found[series._name.removeprefix(PREFIX)] = tuple(series._labelnames)
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT
    assert all(line.startswith((b"# ", PREFIX.encode())) for line in
               generate_latest(registry).splitlines())  # fmt: skip


def test_labels_are_bounded() -> None:
    metrics = EngineMetrics(CollectorRegistry())
    labels = {metrics.adapter_label(f"a{i}") for i in range(1000)}
    assert len(labels) == 201
    assert "other" in labels
    for i in range(1000):
        metrics.observe_version(adapter("sql", i + 1), "stop", 0.1)
    assert len(metrics._versions) <= 201


def test_series_of_an_adapter_that_is_gone_disappear() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    for label in ("sql", "polite", "polite+sql", "base"):
        name = metrics.adapter_label(label)
        metrics.prompt_tokens.labels(name).inc()
        metrics.generation_tokens.labels(name).inc()
        metrics.requests.labels(name, "stop").inc()
        metrics.requests.labels(name, "length").inc()
        metrics.time_to_first_token.labels(name).observe(0.1)
    metrics.observe_version(adapter("sql", 3), "stop", 0.1)
    metrics.observe_version(adapter("polite"), "stop", 0.1)
    metrics.keep_adapters(["polite"])
    page = generate_latest(registry).decode()
    assert "sql" not in page
    assert 'adapter="polite"' in page
    assert 'adapter="base"' in page
    assert metrics.adapter_label("sql") == "sql", "it may come back"
