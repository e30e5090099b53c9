"""`trainer run` and `trainer resume`: preflight, train, evaluate, publish."""

import dataclasses
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adapters.store.alias_notes import publish_note
from adapters.store.store import AdapterStore, StoredAdapter
from trainer.config.gate import gate_verdict
from trainer.config.loading import LoadedConfig
from trainer.config.objective import Objective
from trainer.data.report import report_json
from trainer.errors import TrainingFailedError
from trainer.evaluate.comparison_report import comparison_table
from trainer.evaluate.samples import Sample, choose_examples, sample_table
from trainer.loop.checkpoints import Checkpoint, is_disk_full
from trainer.loop.history import History
from trainer.loop.loop import Audience, TrainingJob, TrainingOutcome, train_adapter
from trainer.loop.processes import ALONE, Processes, join_processes
from trainer.loop.progress import choose_view
from trainer.loop.run_folder import RunFolder, RunRecord, create_run_folder
from trainer.loop.trackers import Tracker, open_tracker
from trainer.loop.training_arguments import resolve_device
from trainer.objectives.task import Task, make_task
from trainer.prediction.run_memory import predict_run_memory
from trainer.prediction.tables import memory_line
from trainer.preflight.prepare import Preflight, prepare_run
from trainer.publish.card import model_card
from trainer.publish.curve import draw_loss_curve
from trainer.publish.lineage import build_manifest
from trainer.publish.objective_text import loss_name
from trainer.publish.publishing import folder_size_bytes, parent_version, publish_adapter
from trainer.run.run_evaluation import BaseEvaluation, RunEvaluation, figures_as_metrics
from trainer.run.sample_log import SampleLog
from trainer.tuning.attachment import attach_adapter
from trainer.tuning.tuning import Tuning


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out. `stored` is None when the gate kept the adapter out of the store."""

    folder: RunFolder
    eval_loss_base: float
    eval_loss: float
    samples: tuple[Sample, ...]
    stored: StoredAdapter | None
    metrics: dict[str, float]


def run_training(
    loaded: LoadedConfig, *, store: AdapterStore, runs: Path, console: Console
) -> RunResult:
    """Train one adapter and publish it if its gate holds.

    Every file of the run stays in a new folder under `runs`, published or not. Started by
    `accelerate launch`, all processes train and the first one does the rest. Raises `TrainerError`
    or `AdapterError`; then nothing was published.
    """
    processes, console = _join(loaded, console)
    ready = prepare_run(loaded, console, processes.count)
    config = ready.config
    created = create_run_folder(runs, config.name).path if processes.is_main else None
    folder = RunFolder(_known(processes.share(created)))
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
    task = task_of(ready, processes)
    base = task.measure(ready.base.model)
    record = RunRecord(
        config_folder=str(loaded.folder.resolve()),
        store=store.reference,
        data_digest=ready.data.digest,
        base_digest=ready.base.resolved.digest,
        num_processes=processes.count,
        base_measured={"loss": base.loss, **base.metrics},
    )
    if processes.is_main:
        folder.write_config(config)
        report = report_json(ready.data, ready.labeller)
        folder.write_text("data.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        folder.write_record(record)
    return carry_out(ready, task, folder, record, None, store, console, processes)


def carry_out(
    ready: Preflight,
    task: Task,
    folder: RunFolder,
    record: RunRecord,
    start: Checkpoint | None,
    store: AdapterStore,
    console: Console,
    processes: Processes = ALONE,
) -> RunResult:
    """Train from `start`, or from the beginning, to the published version."""
    config = ready.config
    base_loss = record.base_measured["loss"]
    console.print(f"held-out loss of the base: {base_loss:.4f}", highlight=False)
    predicted = predict_run_memory(ready).total if task.has_predicted_memory else None
    evaluation = base = None
    if processes.is_main:
        evaluation = RunEvaluation(ready, folder, task)
        base = evaluation.measure_base(base_loss)
    tuning = attach_adapter(
        ready.base,
        config,
        num_steps=ready.plan.num_steps,
        rows=ready.data.train.rows,
        pad_id=ready.pad_id,
    )
    job = TrainingJob(
        config=config,
        plan=ready.plan,
        rows=task.rows,
        objective=task.objective,
        measure=task.measure,
        folder=folder,
        hooks=tuning,
        processes=processes,
    )
    with (
        _open_audience(ready, folder, start, base_loss, console, processes) as audience,
        _disk_full_explained(folder),
    ):
        outcome = train_adapter(tuning.model, job, audience, start)
    if predicted is not None:
        console.print(memory_line(predicted, outcome.peak_memory_bytes), highlight=False)
    result = None
    if evaluation is not None and base is not None:
        trained = _Trained(outcome, tuning, evaluation, base)
        result = _finish(ready, task, folder, record, trained, store, console)
    shared: RunResult = _known(processes.share(result))
    processes.leave()
    return shared


@dataclass(frozen=True)
class _Trained:
    """What the main process has after the last step."""

    outcome: TrainingOutcome
    tuning: Tuning
    evaluation: RunEvaluation
    base: BaseEvaluation


def _finish(
    ready: Preflight,
    task: Task,
    folder: RunFolder,
    record: RunRecord,
    trained: _Trained,
    store: AdapterStore,
    console: Console,
) -> RunResult:
    config, outcome, tuning = ready.config, trained.outcome, trained.tuning
    # From here on the model computes with the values that are in the files.
    shutil.rmtree(folder.adapter, ignore_errors=True)
    tuning.write(folder.adapter, getattr(torch, config.publish.dtype))
    published = tuning.published(folder.adapter)
    measured = task.measure_alone(published)
    samples = trained.evaluation.samples(published, trained.base)
    base_loss = record.base_measured["loss"]
    adapter = trained.evaluation.measure_adapter(published, measured.loss, trained.base)
    metrics = {
        **_metrics(record.base_measured, measured.loss, measured.metrics, outcome),
        **figures_as_metrics(trained.base.measured, adapter),
    }
    folder.write_text("adapter/README.md", model_card(config, ready.data, metrics, samples))
    if samples:
        console.print(sample_table(samples, config.name))
    if set(config.evaluation.metrics) - {"perplexity"}:
        console.print(
            comparison_table([trained.base.measured, adapter], trained.evaluation.held_out)
        )
    console.print(_summary(outcome, base_loss, measured.loss), highlight=False)
    stored = _publish(ready, store, folder, metrics, console)
    if stored is not None:
        folder.write_record(dataclasses.replace(record, published=stored.label))
    return RunResult(folder, base_loss, measured.loss, samples, stored, metrics)


def task_of(ready: Preflight, processes: Processes) -> Task:
    """What the run that is ready trains on, minimises and measures."""
    config = ready.config
    return make_task(
        config.objective,
        config.preference,
        ready.data,
        ready.base.model,
        is_packed=ready.plan.packing,
        batch_tokens=config.evaluation.batch_tokens,
        pad_id=ready.pad_id,
        processes=processes,
    )


def _join(loaded: LoadedConfig, console: Console) -> tuple[Processes, Console]:
    """This process's place, and the console that it talks to: only the main one is heard."""
    processes = join_processes(resolve_device(loaded.config.training.device))
    return processes, console if processes.is_main else Console(quiet=True)


@contextmanager
def _open_audience(
    ready: Preflight,
    folder: RunFolder,
    start: Checkpoint | None,
    base_loss: float,
    console: Console,
    processes: Processes,
) -> Iterator[Audience | None]:
    """History, progress, tracker and samples of the main process; nothing for the others."""
    if not processes.is_main:
        yield None
        return
    config, done = ready.config, 0 if start is None else start.step
    logging = config.training.logging
    tracker = open_tracker(
        logging.to,
        project=logging.project,
        run_name=logging.run_name or config.name,
        folder=folder.path,
        config=config.document(),
        done_steps=done,
    )
    history = History(folder.history, done)
    try:
        sample = _sample_log(ready, folder, tracker, console)
        yield Audience(history, choose_view(console), tracker, sample)
    finally:
        history.close()
        tracker.close()
        _draw_curve(history, folder, config.name, config.objective, base_loss)


def _sample_log(
    ready: Preflight, folder: RunFolder, tracker: Tracker, console: Console
) -> SampleLog | None:
    section = ready.config.evaluation
    examples = choose_examples(ready.data.held_out, section.samples)
    if not examples:
        return None
    return SampleLog(
        examples,
        tokenizer=ready.base.tokenizer,
        labeller=ready.labeller,
        max_tokens=section.sample_tokens,
        pad_id=ready.pad_id,
        folder=folder,
        tracker=tracker,
        console=console,
    )


@contextmanager
def _disk_full_explained(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise TrainingFailedError(
            f"no space is left for the files of {folder.path}; nothing was published. Free some, "
            "then `trainer resume` this run folder: it goes on from its last checkpoint"
        ) from error


def _draw_curve(
    history: History, folder: RunFolder, name: str, objective: Objective, base_loss: float
) -> None:
    with warnings.catch_warnings():
        # Fonts without CJK glyphs draw boxes for a Chinese name; that is no reason to warn.
        warnings.simplefilter("ignore", UserWarning)
        draw_loss_curve(
            history.records,
            folder.loss_curve,
            title=name,
            measure=loss_name(objective),
            base_loss=base_loss,
        )


def _metrics(
    base: dict[str, float], loss: float, others: Any, outcome: TrainingOutcome
) -> dict[str, float]:
    return {
        "eval_loss_base": base["loss"],
        "eval_loss": loss,
        **{f"eval_{name}_base": value for name, value in base.items() if name != "loss"},
        **{f"eval_{name}": value for name, value in others.items()},
        "num_steps": float(outcome.num_steps),
        "best_step": float(outcome.best_step),
        "num_train_tokens": float(outcome.num_tokens),
        "train_seconds": round(outcome.seconds, 1),
        "peak_memory_bytes": float(outcome.peak_memory_bytes),
    }


def _summary(outcome: TrainingOutcome, base_loss: float, loss: float) -> str:
    rate = outcome.num_tokens / max(outcome.seconds, 1e-9)
    early = ", ended early because held-out loss no longer fell" if outcome.ended_early else ""
    return (
        f"trained {outcome.num_steps} steps in {outcome.seconds:.0f} s ({rate:.0f} tokens/s, "
        f"evaluations included){early}; weights of step {outcome.best_step}\n"
        f"peak memory while training: {outcome.peak_memory_bytes / 2**30:.2f} GiB\n"
        f"held-out loss: base {base_loss:.4f}, adapter {loss:.4f} ({loss / base_loss - 1:+.1%})"
    )


def _publish(
    ready: Preflight,
    store: AdapterStore,
    folder: RunFolder,
    metrics: dict[str, float],
    console: Console,
) -> StoredAdapter | None:
    config = ready.config
    if not config.training_method.publishes_adapter:
        console.print(
            f"full fine-tuning makes another base, not an adapter: the model is in {folder.adapter}"
        )
        return None
    is_open, reason = gate_verdict(config.publish.gate, metrics)
    console.print(reason, highlight=False)
    if not is_open:
        console.print(
            f"nothing was published; the adapter is in {folder.adapter}", style="bold red"
        )
        return None
    parent = parent_version(store, config.name)
    manifest = build_manifest(config, ready.base, ready.data, ready.labeller, metrics, parent)
    before = store.alias(config.name)
    stored = publish_adapter(store, manifest, folder, config.publish)
    size = folder_size_bytes(stored.path)
    console.print(f"published {stored.label} ({size / 1e6:.2f} MB) in {stored.path}", style="bold")
    if note := publish_note(stored, before, store.alias(config.name)):
        console.print(note.rstrip(), markup=False, highlight=False, soft_wrap=True)
    return stored


def _known(value: Any) -> Any:
    assert value is not None, "the main process gave nothing"
    return value
