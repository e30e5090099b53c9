"""Telling a person how the run goes: a live bar on a terminal, plain lines elsewhere."""

import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.loop.history import StepRecord

LINES_PER_RUN = 25
"""Off a terminal, about so many lines are written for a whole run."""


class ProgressView(Protocol):
    """Shown to the person who waits."""

    def begin(self, num_steps: int, done_steps: int) -> None: ...

    def step(self, record: StepRecord) -> None: ...

    def evaluated(self, record: StepRecord) -> None: ...

    def end(self) -> None: ...


def choose_view(console: Console) -> ProgressView:
    """A bar on a terminal, lines otherwise."""
    return BarView(console) if console.is_terminal else LineView(console)


class BarView:
    """One line that moves: step, loss, tokens a second, memory, time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._held_out = ""

    def begin(self, num_steps: int, done_steps: int) -> None:
        self._task = self._progress.add_task("starting", total=num_steps, completed=done_steps)
        self._progress.start()

    def step(self, record: StepRecord) -> None:
        text = _numbers(record) + self._held_out
        self._progress.update(self._task, completed=record.step, description=text)

    def evaluated(self, record: StepRecord) -> None:
        self._held_out = f" | held out {record.eval_loss:.4f}"
        self._progress.console.print(_evaluation(record), highlight=False)

    def end(self) -> None:
        self._progress.stop()


class LineView:
    """A line every so many steps, for log files."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_steps = 1
        self._done_before = 0
        self._started = 0.0

    def begin(self, num_steps: int, done_steps: int) -> None:
        self._num_steps = num_steps
        self._done_before = done_steps
        self._started = time.monotonic()

    def step(self, record: StepRecord) -> None:
        every = max(1, self._num_steps // LINES_PER_RUN)
        if record.step % every and record.step != self._num_steps:
            return
        elapsed = time.monotonic() - self._started
        done = record.step - self._done_before
        left = elapsed / done * (self._num_steps - record.step)
        self._console.print(
            f"step {record.step}/{self._num_steps} | {_numbers(record)} | left {left:.0f} s",
            highlight=False,
        )

    def evaluated(self, record: StepRecord) -> None:
        self._console.print(_evaluation(record), highlight=False)

    def end(self) -> None:
        """Nothing to close."""


def _numbers(record: StepRecord) -> str:
    parts = [f"epoch {record.epoch:.2f}"]
    if record.loss is not None:
        parts.append(f"loss {record.loss:.4f}")
    if record.tokens_per_second is not None:
        parts.append(f"{record.tokens_per_second:.0f} tokens/s")
    if record.memory_bytes is not None:
        parts.append(f"{record.memory_bytes / 2**30:.2f} GiB")
    return " | ".join(parts)


def _evaluation(record: StepRecord) -> str:
    text = f"step {record.step} | epoch {record.epoch:.2f} | held-out loss {record.eval_loss:.4f}"
    return text + "".join(
        f" | {name} {value:.4f}" for name, value in (record.metrics or {}).items()
    )
