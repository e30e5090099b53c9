"""Evaluations during training: the best weights are kept, and a run that stalls is ended."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from trainer.loop.checkpoint_state import Progress, trainable_parameters, weights_of
from trainer.loop.checkpoints import replace_file
from trainer.loop.plan import TrainingPlan


@dataclass(frozen=True, slots=True)
class Measurement:
    """What an evaluation found; `loss` is what early stopping and the choice of the best go by."""

    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoppingRules:
    """What follows from held-out losses: whether the best weights are kept, and when to end.

    `patience` evaluations without a loss lower by more than `min_delta` end the run.
    """

    keep_best: bool
    patience: int | None
    min_delta: float


class Evaluations(TrainerCallback):  # type: ignore[misc]
    """Evaluates after the planned steps, on every process; `folder` is where rank 0 writes."""

    def __init__(
        self,
        rules: StoppingRules,
        plan: TrainingPlan,
        model: nn.Module,
        *,
        measure: Callable[[nn.Module], Measurement],
        report: Callable[[int, float, Mapping[str, float]], None],
        sample: Callable[[nn.Module, int], None] | None,
        folder: Path | None,
        progress: Progress,
    ) -> None:
        self._rules = rules
        self._plan = plan
        self._model = model
        self._measure = measure
        self._report = report
        self._sample = sample
        self._folder = folder
        self._best_weights: dict[str, torch.Tensor] = {}
        self.progress = progress

    @property
    def best_file(self) -> Path | None:
        """The best weights on disk; None where none are kept."""
        step = self.progress.best_step
        if self._folder is None or step is None or not self._rules.keep_best:
            return None
        return self._folder / f"step-{step:08d}.safetensors"

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        step = state.global_step
        if "loss" not in logs or step not in self._plan.eval_steps:
            return
        measured = self._measure(self._model)
        self._report(step, measured.loss, measured.metrics)
        if self._sample is not None:
            self._sample(self._model, step)
        self.note(step, measured.loss)
        if self.progress.ended:
            control.should_training_stop = True

    def note(self, step: int, loss: float) -> None:
        """Take a held-out loss into account: the best so far, or one more without progress."""
        best = math.inf if self.progress.best_loss is None else self.progress.best_loss
        stalled = self.progress.evaluations_without_progress + 1
        if loss < best - self._rules.min_delta:
            stalled = 0
        patience = self._rules.patience
        self.progress = dataclasses.replace(
            self.progress,
            evaluations_without_progress=stalled,
            ended=patience is not None and stalled >= patience,
        )
        if loss < best:
            before = self.best_file
            self.progress = dataclasses.replace(self.progress, best_loss=loss, best_step=step)
            self._keep(before)

    def restore_best(self, last_step: int) -> int:
        """Put the best weights back if they are not those of `last_step`; returns their step."""
        best_step = self.progress.best_step
        if not self._rules.keep_best or best_step in (None, last_step):
            return last_step
        with torch.no_grad():
            for name, parameter in trainable_parameters(self._model).items():
                parameter.copy_(self._best_weights[name])
        assert best_step is not None
        return best_step

    def remember_best(self, file: Path) -> None:
        """The best weights of a checkpoint that the run goes on from."""
        from safetensors.torch import load_file

        self._best_weights = load_file(str(file))
        mine = self.best_file
        if mine is not None:
            mine.parent.mkdir(exist_ok=True)
            replace_file(mine, file.read_bytes())

    def _keep(self, before: Path | None) -> None:
        if not self._rules.keep_best:
            return
        from safetensors.torch import save

        self._best_weights = weights_of(self._model)
        path = self.best_file
        if path is not None:
            path.parent.mkdir(exist_ok=True)
            replace_file(path, save(self._best_weights))
            if before is not None and before != path:
                before.unlink(missing_ok=True)
