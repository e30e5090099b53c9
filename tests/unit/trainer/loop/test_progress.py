"""The bar on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from trainer.loop.history import StepRecord
from trainer.loop.progress import LINES_PER_RUN, BarView, LineView, choose_view


def record(step: int) -> StepRecord:
    return StepRecord(step, step / 10, loss=2.5, tokens_per_second=321.4, memory_bytes=3 * 2**29)


@pytest.mark.parametrize("terminal", [True, False])
def test_both_show_loss_speed_memory_and_held_out_loss(terminal: bool) -> None:
    file = io.StringIO()
    view = choose_view(Console(file=file, force_terminal=terminal, width=140))
    assert isinstance(view, BarView if terminal else LineView)
    view.begin(2, 0)
    view.step(record(1))
    view.evaluated(StepRecord(1, 0.1, eval_loss=1.25))
    view.step(record(2))
    view.end()
    text = file.getvalue()
    for part in ("loss 2.5000", "321 tokens/s", "1.50 GiB", "held-out loss 1.2500", "left"):
        assert part in text


def test_a_long_run_writes_few_lines() -> None:
    file = io.StringIO()
    view = LineView(Console(file=file, width=140))
    view.begin(1000, 0)
    for step in range(1, 1001):
        view.step(record(step))
    view.end()
    lines = file.getvalue().splitlines()
    assert len(lines) == LINES_PER_RUN
    assert lines[-1].startswith("step 1000/1000")
