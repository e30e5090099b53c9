"""Each step's numbers: into the history, before a person's eyes, to the tracker."""

import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from trainer.loop.history import History, StepRecord
from trainer.loop.peak_memory import memory_bytes
from trainer.loop.plan import TrainingPlan
from trainer.loop.progress import ProgressView
from trainer.loop.trackers import Tracker


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes each step into the history and shows it. Only the main process has a real one."""

    def __init__(
        self, plan: TrainingPlan, history: History, view: ProgressView, tracker: Tracker
    ) -> None:
        self._plan = plan
        self._history = history
        self._view = view
        self._tracker = tracker
        self._step_began = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Evaluation time doesn't count against tokens per second.
        self._step_began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        step = state.global_step
        seconds = max(time.monotonic() - self._step_began, 1e-9)
        tokens = self._plan.tokens_at(step) - self._plan.tokens_at(step - 1)
        record = StepRecord(
            step=step,
            epoch=round(self._plan.epoch_at(step), 4),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            tokens_per_second=round(tokens / seconds, 1),
            memory_bytes=memory_bytes(args.device),
        )
        self._history.add(record)
        self._view.step(record)
        self._tracker.log(step, _numbers(record, "train"))

    def evaluated(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
        """Record a held-out loss and what else was measured with it."""
        epoch = round(self._plan.epoch_at(step), 4)
        record = StepRecord(step, epoch, eval_loss=loss, metrics=dict(metrics) or None)
        self._history.add(record)
        self._view.evaluated(record)
        self._tracker.log(step, {"eval/loss": loss, **{f"eval/{k}": v for k, v in metrics.items()}})


class SilentRecorder(TrainerCallback):  # type: ignore[misc]
    """Of the other processes: they measure, the main one tells."""

    def evaluated(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
        """Nobody is told."""


def _numbers(record: StepRecord, group: str) -> dict[str, float]:
    numbers = {
        "loss": record.loss,
        "epoch": record.epoch,
        "learning_rate": record.learning_rate,
        "grad_norm": record.grad_norm,
        "tokens_per_second": record.tokens_per_second,
        "memory_bytes": record.memory_bytes,
    }
    return {f"{group}/{name}": float(value) for name, value in numbers.items() if value is not None}
