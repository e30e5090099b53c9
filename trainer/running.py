"""`trainer run`: preflight, train, evaluate, publish."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from adapters.store import AdapterStore, StoredAdapter
from trainer.card import model_card
from trainer.config_loading import LoadedConfig
from trainer.curve import draw_loss_curve
from trainer.data.report import report_json
from trainer.evaluation import held_out_loss
from trainer.gate import parse_gate
from trainer.history import History
from trainer.lineage import build_manifest
from trainer.loop import TrainingOutcome, train_adapter
from trainer.methods.attachment import attach_adapter
from trainer.preflight import Preflight, prepare_run
from trainer.progress import choose_view
from trainer.publishing import folder_size_bytes, parent_version, publish_adapter
from trainer.run_folder import RunFolder, create_run_folder
from trainer.samples import Sample, choose_examples, draw_samples, sample_table


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came out. `stored` is None when the gate kept the adapter out of the store."""

    folder: RunFolder
    eval_loss_base: float
    eval_loss: float
    samples: tuple[Sample, ...]
    stored: StoredAdapter | None


def run_training(
    loaded: LoadedConfig, *, store: AdapterStore, runs: Path, console: Console
) -> RunResult:
    """Train one adapter and publish it if its gate holds.

    Every file of the run stays in a new folder under `runs`, published or not. Raises
    `TrainerError` or `AdapterError`; then nothing was published.
    """
    ready = prepare_run(loaded, console)
    config = ready.config
    folder = create_run_folder(runs, config.name)
    folder.write_config(config)
    report = report_json(ready.data, ready.labeller)
    folder.write_text("data.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)

    base_loss = _held_out_loss(ready, ready.base.model)
    console.print(f"held-out loss of the base: {base_loss:.4f}", highlight=False)
    rows = ready.data.train.rows
    tuning = attach_adapter(
        ready.base, config, num_steps=ready.plan.num_steps, rows=rows, pad_id=ready.pad_id
    )
    history = History(folder.history)
    try:
        outcome = train_adapter(
            tuning,
            config=config,
            plan=ready.plan,
            rows=rows,
            held_out=ready.data.held_out.rows,
            pad_id=ready.pad_id,
            folder=folder,
            history=history,
            view=choose_view(console),
        )
    finally:
        history.close()
        _draw_curve(history, folder, config.name)

    # From here on the model computes with the values that are in the files.
    tuning.write(folder.adapter, getattr(torch, config.publish.dtype))
    published = tuning.published(folder.adapter)
    loss = _held_out_loss(ready, published)
    samples = draw_samples(
        published,
        ready.base.tokenizer,
        ready.labeller,
        # Of full fine-tuning no base is left to compare with.
        choose_examples(
            ready.data.held_out, 0 if config.method == "full" else config.evaluation.samples
        ),
        max_tokens=config.evaluation.sample_tokens,
        pad_id=ready.pad_id,
    )
    metrics = _metrics(base_loss, loss, outcome)
    folder.write_text("adapter/README.md", model_card(config, ready.data, metrics, samples))
    if samples:
        console.print(sample_table(samples, config.name))
    console.print(_summary(outcome, base_loss, loss), highlight=False)
    stored = _publish(ready, store, folder, metrics, console)
    return RunResult(folder, base_loss, loss, samples, stored)


def _held_out_loss(ready: Preflight, model: torch.nn.Module) -> float:
    return held_out_loss(
        model,
        ready.data.held_out.rows,
        batch_tokens=ready.config.evaluation.batch_tokens,
        pad_id=ready.pad_id,
    ).mean


def _draw_curve(history: History, folder: RunFolder, name: str) -> None:
    with warnings.catch_warnings():
        # Fonts without CJK glyphs draw boxes for a Chinese name; that is no reason to warn.
        warnings.simplefilter("ignore", UserWarning)
        draw_loss_curve(history.records, folder.loss_curve, title=name)


def _metrics(base_loss: float, loss: float, outcome: TrainingOutcome) -> dict[str, float]:
    return {
        "eval_loss_base": base_loss,
        "eval_loss": loss,
        "num_steps": float(outcome.num_steps),
        "best_step": float(outcome.best_step),
        "num_train_tokens": float(outcome.num_tokens),
        "train_seconds": round(outcome.seconds, 1),
    }


def _summary(outcome: TrainingOutcome, base_loss: float, loss: float) -> str:
    rate = outcome.num_tokens / max(outcome.seconds, 1e-9)
    return (
        f"trained {outcome.num_steps} steps in {outcome.seconds:.0f} s ({rate:.0f} tokens/s, "
        f"evaluations included); weights of step {outcome.best_step}\n"
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
    if config.method == "full":
        console.print(
            f"full fine-tuning makes another base, not an adapter: the model is in {folder.adapter}"
        )
        return None
    gate = parse_gate(config.publish.gate)
    base_loss, loss = metrics["eval_loss_base"], metrics["eval_loss"]
    console.print(gate.explain(loss, base_loss), highlight=False)
    if not gate.is_open(loss, base_loss):
        console.print(
            f"nothing was published; the adapter is in {folder.adapter}", style="bold red"
        )
        return None
    parent = parent_version(store, config.name)
    manifest = build_manifest(config, ready.base, ready.data, ready.labeller, metrics, parent)
    stored = publish_adapter(store, manifest, folder, config.publish)
    size = folder_size_bytes(stored.path)
    console.print(f"published {stored.label} ({size / 1e6:.2f} MB) in {stored.path}", style="bold")
    return stored
