"""What happens beside the steps: recording, showing, evaluating, keeping the best."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from trainer.config import EvaluationSection
from trainer.evaluation import held_out_loss
from trainer.history import History, StepRecord
from trainer.labels import LabelledRow
from trainer.plan import TrainingPlan
from trainer.progress import ProgressView, memory_bytes


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes each step into the history and shows it."""

    def __init__(self, plan: TrainingPlan, history: History, view: ProgressView) -> None:
        self._plan = plan
        self._history = history
        self._view = view
        self._last_time = time.monotonic()
        self._last_tokens = 0
        self._trainer: Any = None
        self.num_tokens = 0

    def watch(self, trainer: Any) -> None:
        """The `AdapterTrainer` whose tokens are counted and whose loggers get evaluations."""
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last_time = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs or self._trainer is None:
            return
        now = time.monotonic()
        self.num_tokens = self._trainer.num_tokens
        rate = (self.num_tokens - self._last_tokens) / max(now - self._last_time, 1e-9)
        self._last_tokens = self.num_tokens
        record = StepRecord(
            step=state.global_step,
            epoch=round(self._plan.epoch_at(state.global_step), 4),
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            tokens_per_second=round(rate, 1),
            memory_bytes=memory_bytes(self._trainer.args.device),
        )
        self._history.add(record)
        self._view.step(record)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # `global_step` is raised only after this event.
        if self._trainer is not None:
            self._trainer.hooks.after_optimizer_step(self._trainer.model, state.global_step + 1)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Evaluation time doesn't count against tokens per second.
        self._last_time = time.monotonic()

    def evaluated(self, step: int, loss: float) -> None:
        """Record a held-out loss."""
        record = StepRecord(step, round(self._plan.epoch_at(step), 4), eval_loss=loss)
        self._history.add(record)
        self._view.evaluated(record)
        if self._trainer is not None:
            self._trainer.log({"eval_loss": loss})


class BestKeeper(TrainerCallback):  # type: ignore[misc]
    """Evaluates at the planned steps and keeps the best weights."""

    def __init__(
        self,
        settings: EvaluationSection,
        plan: TrainingPlan,
        held_out: Sequence[LabelledRow],
        pad_id: int,
        report: Callable[[int, float], None],
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._held_out = held_out
        self._pad_id = pad_id
        self._report = report
        self._best_loss = math.inf
        self._best: dict[str, torch.Tensor] = {}
        self._best_step = plan.num_steps

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any, model: Any, **kwargs: Any
    ) -> None:
        if "loss" not in logs or state.global_step not in self._plan.eval_steps:
            return
        measured = held_out_loss(
            model,
            self._held_out,
            batch_tokens=self._settings.batch_tokens,
            pad_id=self._pad_id,
        )
        self._report(state.global_step, measured.mean)
        if self._settings.keep_best and measured.mean < self._best_loss:
            self._best_loss, self._best_step = measured.mean, state.global_step
            self._best = {
                name: parameter.detach().cpu().clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }

    def restore(self, peft_model: Any) -> int:
        """Put the best weights back; returns their step."""
        if math.isfinite(self._best_loss) and self._best_step != self._plan.num_steps:
            with torch.no_grad():
                for name, parameter in peft_model.named_parameters():
                    if name in self._best:
                        parameter.copy_(self._best[name])
        return self._best_step
