"""Percentiles, cells and tables."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.harness.http_client import StreamTimings
from loadtests.harness.report import (
    CELL_HEADER,
    cell_row,
    format_memory,
    format_table,
    percentile,
    summarise,
)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.sampled_from([0.0, 1.0, 50.0, 99.0, 100.0]),
)
def test_percentile_agrees_with_numpy(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(np.percentile(values, share), abs=1e-6)


@pytest.mark.parametrize(("values", "share"), [([], 50.0), ([1.0], 101.0), ([1.0], -1.0)])
def test_percentile_refuses(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


def test_a_cell_spans_first_start_to_last_end() -> None:
    timings = [
        StreamTimings(0.0, 2.0, (0.5, 1.0, 2.0), 3, "abc"),
        StreamTimings(1.0, 4.0, (1.5, 4.0), 5, "de"),
    ]
    cell = summarise("ours", 2, 1, timings, client_cpu_seconds=0.4)
    assert cell.num_requests == 2
    assert cell.num_tokens == 8
    assert cell.wall_seconds == 4.0
    assert cell.tokens_per_second == 2.0
    assert cell.ttft_p50_ms == 500.0
    assert cell.gap_p50_ms == 1000.0
    assert cell.client_cpu_share == pytest.approx(0.1)
    assert len(cell_row(cell)) == len(CELL_HEADER)
    assert cell_row(cell)[-1] == "-"
    assert cell_row(replace(cell, python_share=0.123))[-1] == "12.3%"


def test_memory_by_device_and_component() -> None:
    memory = {
        ("cpu", "weights"): 104857600,
        ("cpu", "kv_cache"): 52428800,
        ("cuda:0", "weights"): 1048576,
    }
    lines = format_memory(memory).splitlines()
    assert lines[2].split() == ["cpu", "kv_cache", "50.0"]
    assert lines[4].split() == ["cpu", "sum", "150.0"]
    assert lines[6].split() == ["cuda:0", "sum", "1.0"]


def test_table_aligns_its_columns() -> None:
    table = format_table(("name", "n"), [("a", "1"), ("long name", "100")])
    assert table.splitlines() == [
        "name         n",
        "---------  ---",
        "a            1",
        "long name  100",
    ]
