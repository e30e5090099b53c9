"""One training run over rows, from a fresh adapter, or a checkpoint, to its best weights."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PrinterCallback, TrainerCallback

from adapters.base.host_memory import return_freed_memory
from trainer.config import TrainerConfig
from trainer.loop.adapter_trainer import AdapterTrainer
from trainer.loop.checkpoint_state import (
    BEST,
    Progress,
    random_state,
    read_progress,
    restore_weights,
    weights_of,
    write_state,
)
from trainer.loop.checkpoints import Checkpoint, Checkpoints
from trainer.loop.evaluation_callback import Evaluations, Measurement, StoppingRules
from trainer.loop.history import History
from trainer.loop.hooks import MethodHooks, NoHooks
from trainer.loop.objective import Objective
from trainer.loop.peak_memory import peak_bytes, reset_peak
from trainer.loop.plan import TrainingPlan
from trainer.loop.processes import ALONE, Processes
from trainer.loop.progress import ProgressView
from trainer.loop.recorder import Recorder, SilentRecorder
from trainer.loop.run_folder import RunFolder
from trainer.loop.trackers import NoTracker, Tracker
from trainer.loop.training_arguments import training_arguments

RELEASE_EVERY_STEPS = 4
"""Often enough that holes don't add up, seldom enough that fresh pages cost nothing one notices."""


@dataclass(frozen=True)
class TrainingJob:
    """What is trained on, how, and where its files go.

    `rows` have a length in tokens; `objective` makes a loss of them. `measure` evaluates a model;
    it is called on every process.
    """

    config: TrainerConfig
    plan: TrainingPlan
    rows: Sequence[Any]
    objective: Objective
    measure: Callable[[nn.Module], Measurement]
    folder: RunFolder
    hooks: MethodHooks = dataclasses.field(default_factory=NoHooks)
    processes: Processes = ALONE


@dataclass(frozen=True)
class Audience:
    """Who is told how the run goes; the main process has one."""

    history: History
    view: ProgressView
    tracker: Tracker = dataclasses.field(default_factory=NoTracker)
    sample: Callable[[nn.Module, int], None] | None = None


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """How the run ended. `best_step` is the step whose weights the model now has.

    `seconds` are those of all parts of a run that was resumed; `peak_memory_bytes` of the last.
    """

    best_step: int
    num_steps: int
    num_tokens: int
    seconds: float
    peak_memory_bytes: int
    ended_early: bool


def train_adapter(
    model: Any,
    job: TrainingJob,
    audience: Audience | None,
    start: Checkpoint | None = None,
) -> TrainingOutcome:
    """Train what is trainable in `model` in place, by the plan; checkpoints go to the run folder.

    From `start` on, everything is as if the run had never stopped. With `evaluation.keep_best` the
    model ends with the weights of its best evaluation. Raises `TrainingFailedError` at the first
    loss that is not a finite number or when nothing carries loss, `CheckpointError` when the disk
    refuses a checkpoint, `ResumeError` when `start` doesn't fit, and `ConfigError` for
    `trainer_args` that transformers doesn't take.
    """
    return _Run(model, job, audience, start).carry_out()


class _Run:
    """One call of `train_adapter`."""

    def __init__(
        self, model: Any, job: TrainingJob, audience: Audience | None, start: Checkpoint | None
    ) -> None:
        config, plan = job.config, job.plan
        self._model = model
        self._job = job
        self._audience = audience
        self._start = start
        self._began = time.monotonic()
        progress = Progress(step=0, num_processes=job.processes.count)
        if start is not None:
            progress = read_progress(start.path)
            restore_weights(model, job.hooks, start.path)
        self._seconds_before = progress.seconds
        section = config.training.checkpoints
        self._checkpoints = Checkpoints(job.folder.checkpoints, section.keep)
        self._checkpoint_steps = checkpoint_steps(plan, section.every)
        if config.training.gradient_checkpointing and hasattr(model, "enable_input_require_grads"):
            model.enable_input_require_grads()
        recorder = (
            SilentRecorder()
            if audience is None
            else Recorder(plan, audience.history, audience.view, audience.tracker)
        )
        stopping = config.training.early_stopping
        self._evaluations = Evaluations(
            StoppingRules(config.evaluation.keep_best, stopping.patience, stopping.min_delta),
            plan,
            model,
            measure=self._measure,
            report=recorder.evaluated,
            sample=None if audience is None else audience.sample,
            folder=job.folder.best if job.processes.is_main else None,
            progress=progress,
        )
        self._trainer = AdapterTrainer(
            rows=job.rows,
            plan=plan,
            objective=job.objective,
            hooks=job.hooks,
            processes=job.processes,
            save=self._save,
            model=model,
            args=training_arguments(config, plan, job.folder.path / "trainer"),
            callbacks=[
                recorder,
                self._evaluations,
                _AskForCheckpoint(self._checkpoint_steps),
                _ReleaseMemory(),
            ],
        )
        self._trainer.remove_callback(PrinterCallback)

    def carry_out(self) -> TrainingOutcome:
        start, device = self._start, self._trainer.args.device
        if start is not None and (start.path / BEST).is_file():
            self._evaluations.remember_best(start.path / BEST)
        reset_peak(device)
        step = 0 if start is None else start.step
        if not self._evaluations.progress.ended and step < self._job.plan.num_steps:
            step = self._train(start)
        best_step = self._evaluations.restore_best(step)
        return TrainingOutcome(
            best_step=best_step,
            num_steps=step,
            num_tokens=self._job.plan.tokens_at(step),
            seconds=self._seconds(),
            peak_memory_bytes=peak_bytes(device),
            ended_early=step < self._job.plan.num_steps,
        )

    def _train(self, start: Checkpoint | None) -> int:
        if self._audience is not None:
            done = 0 if start is None else start.step
            self._audience.view.begin(self._job.plan.num_steps, done)
        try:
            self._trainer.train(resume_from_checkpoint=None if start is None else str(start.path))
        finally:
            if self._audience is not None:
                self._audience.view.end()
        return int(self._trainer.state.global_step)

    def _measure(self, model: nn.Module) -> Measurement:
        """An evaluation needs its memory all at once: the holes that steps left go back first."""
        _return_memory(self._trainer.args.device)
        return self._job.measure(model)

    def _save(self, trainer: AdapterTrainer) -> None:
        """Write a checkpoint; every process gives its random state, the main one writes."""
        processes = self._job.processes
        step = trainer.state.global_step
        states = processes.gather(random_state())
        weights = weights_of(self._model)
        if processes.is_main:
            progress = dataclasses.replace(
                self._evaluations.progress, step=step, seconds=self._seconds()
            )
            best = self._evaluations.best_file
            self._checkpoints.write(
                step,
                lambda writer: write_state(
                    writer,
                    trainer=trainer,
                    weights=weights,
                    optimizer_state=trainer.optimizer.state_dict(),
                    hooks=self._job.hooks,
                    progress=progress,
                    random_states=states,
                    best=best,
                ),
            )
        processes.wait()

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began


class _AskForCheckpoint(TrainerCallback):  # type: ignore[misc]
    """After the evaluation of a step, so that the checkpoint knows its result."""

    def __init__(self, steps: frozenset[int]) -> None:
        self._steps = steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        if "loss" in logs and (state.global_step in self._steps or control.should_training_stop):
            control.should_save = bool(self._steps)


class _ReleaseMemory(TrainerCallback):  # type: ignore[misc]
    """On a CPU, every few steps: what freed tensors left behind goes back to the system."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _return_memory(args.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % RELEASE_EVERY_STEPS == 0:
            _return_memory(args.device)


def _return_memory(device: Any) -> None:
    if device.type == "cpu":
        return_freed_memory()


def checkpoint_steps(plan: TrainingPlan, every: int | None) -> frozenset[int]:
    """Steps after which a checkpoint is written: every so many and the last; by default after
    each evaluation; none with 0.
    """
    if every == 0:
        return frozenset()
    if every is None:
        return plan.eval_steps
    return frozenset({*range(every, plan.num_steps, every), plan.num_steps})
