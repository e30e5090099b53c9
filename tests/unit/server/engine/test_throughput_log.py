"""One line for each busy interval, none for an idle one."""

import logging
from itertools import count

import pytest
from prometheus_client import CollectorRegistry

from server.engine.metrics import EngineMetrics
from server.engine.throughput_log import ThroughputLog


def test_a_busy_interval_has_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "server.engine.throughput_log")
    metrics = EngineMetrics(CollectorRegistry())
    ticks = count(0.0, 10.0)
    log = ThroughputLog(metrics, lambda: 3, clock=lambda: next(ticks))
    assert not log.tell()
    metrics.count_prompt("sql", 1000)
    metrics.count_drawn("sql", 250)
    metrics.count_drawn("base", 50)
    metrics.num_running.set(2)
    metrics.num_waiting.set(1)
    metrics.kv_usage.set(0.125)
    assert log.tell()
    (record,) = caplog.records
    assert record.getMessage() == (
        "Avg prompt throughput: 100.0 tokens/s, Avg generation throughput: 30.0 tokens/s, "
        "Running: 2 reqs, Waiting: 1 reqs, KV cache usage: 12.5%, Resident adapters: 3"
    )
    assert vars(record)["generation_tokens_per_second"] == 30.0


def test_silence_while_idle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "server.engine.throughput_log")
    metrics = EngineMetrics(CollectorRegistry())
    log = ThroughputLog(metrics, lambda: 0)
    metrics.count_drawn("sql", 1)
    assert log.tell(), "what ended within the interval counts"
    assert not log.tell()
    metrics.num_waiting.set(1)
    assert log.tell(), "somebody waits"
    metrics.num_waiting.set(0)
    assert not log.tell()
    assert len(caplog.records) == 2


def test_totals_outlive_the_series_of_an_adapter() -> None:
    metrics = EngineMetrics(CollectorRegistry())
    metrics.count_prompt("sql", 7)
    metrics.keep_adapters([])
    metrics.count_prompt("polite", 1)
    assert metrics.num_prompt_tokens == 8
