"""Sides that train in turns: what their steps add up to, and a side that fails is told."""

from pathlib import Path

import pytest

from loadtests.fixtures.chat_rows import write_chat_rows
from loadtests.harness.command import MeasurementError
from loadtests.harness.training_turns import (
    SideResult,
    SideSpec,
    Step,
    format_results,
    train_in_turns,
)


def test_rates_are_of_real_tokens_and_ratios_of_medians() -> None:
    fast = SideResult("fast", (Step(100, 100, 1.0, 5, 2.0), Step(300, 300, 2.0, 7, 2.0)))
    slow = SideResult("slow", (Step(100, 200, 2.0, 9, 2.0), Step(100, 200, 2.0, 9, 2.0)))
    assert fast.tokens_per_second == pytest.approx(400 / 3)
    assert fast.median_tokens_per_second == 125
    assert (fast.padding, slow.padding) == (0.0, 0.5)
    assert (fast.peak_bytes, slow.peak_bytes) == (7, 9)
    assert "2.50" in format_results([fast, slow], "slow")


def test_a_side_that_cannot_begin_is_told_with_its_log(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_chat_rows(rows, 20, seed=0)
    spec = SideSpec(
        name="no base", kind="ours", base=str(tmp_path / "nothing"), rows=str(rows),
        folder=str(tmp_path / "side"), step_tokens=64, step_rows=2, num_steps=2,
    )  # fmt: skip
    with pytest.raises(MeasurementError, match=r"no base didn't start:[\s\S]*nothing"):
        train_in_turns([spec], 1)


def test_more_rows_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the examples have"):
        write_chat_rows(tmp_path / "rows.jsonl", 10**6, seed=0)
