"""One training in a process of its own: its predicted and its measured peak of memory."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STEPS = 3
"""The optimiser's moments are there after the first; the third shows what stays."""

EXAMPLES = Path(__file__).resolve().parent.parent
POLITE = EXAMPLES / "polite" / "train.jsonl"
_PEAK = re.compile(r"peak memory: predicted ([\d.]+) GB, measured ([\d.]+) GB")


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """Bytes: what `trainer check` says, and the most that was resident while training."""

    predicted: int
    measured: int


def measure(overrides: Sequence[str], turns: int) -> MemoryRun:
    """Train `STEPS` steps of conversations of so many turns each, the config overridden so."""
    command = [sys.executable, str(Path(__file__).resolve()), str(turns), *overrides]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return MemoryRun(**json.loads(finished.stdout.splitlines()[-1]))


def measure_example(name: str) -> MemoryRun:
    """A whole `trainer run` of `examples/NAME`, as its last lines tell it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "trainer", "run", str(EXAMPLES / name / "config.yaml")]
        command += ["--store", f"{folder}/store", "--runs", f"{folder}/runs"]
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = _PEAK.search(" ".join(finished.stdout.split()))
    assert found is not None, finished.stdout
    predicted, measured = (round(float(text) * 1e9) for text in found.groups())
    return MemoryRun(predicted, measured)


def write_conversations(path: Path, turns: int) -> None:
    """The polite lesson's rows, so many joined to one conversation: about 90 tokens a turn."""
    rows = [json.loads(line) for line in POLITE.read_text(encoding="utf-8").splitlines()]
    lines = []
    for begin in range(0, len(rows) - turns + 1, turns):
        messages = []
        for row in rows[begin : begin + turns]:
            question = "\n".join(part for part in (row["instruction"], row["input"]) if part)
            messages += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": row["output"]},
            ]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _run(turns: int, overrides: Sequence[str]) -> MemoryRun:
    from adapters.base.host_memory import save_host_memory
    from trainer.config.loading import load_config
    from trainer.quiet import quiet_libraries

    save_host_memory()
    quiet_libraries()
    from rich.console import Console

    from trainer.loop.history import History
    from trainer.loop.loop import Audience, TrainingJob, train_adapter
    from trainer.loop.processes import ALONE
    from trainer.loop.progress import LineView
    from trainer.loop.run_folder import create_run_folder
    from trainer.objectives.task import make_task
    from trainer.prediction.run_memory import predict_run_memory
    from trainer.preflight.prepare import prepare_run
    from trainer.tuning.attachment import attach_adapter

    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_conversations(folder / "train.jsonl", turns)
        config = folder / "config.yaml"
        config.write_text(
            "name: memory\nbase: embedded:smollm2-135m-instruct\ndata: {train: train.jsonl}\n"
            f"training: {{epochs: 4, max_steps: {STEPS}, checkpoints: {{every: 0}}}}\n"
            "evaluation: {every: end, samples: 0, keep_best: false}\n",
            encoding="utf-8",
        )
        ready = prepare_run(load_config(config, list(overrides)), console)
        task = make_task(ready, ALONE)
        predicted = predict_run_memory(ready).total
        tuning = attach_adapter(
            ready.base, ready.config, num_steps=STEPS, rows=ready.data.train.rows,
            pad_id=ready.pad_id,
        )  # fmt: skip
        run_folder = create_run_folder(folder / "runs", "memory")
        job = TrainingJob(
            config=ready.config, plan=ready.plan, rows=task.rows, objective=task.objective,
            measure=task.measure, folder=run_folder, hooks=tuning,
        )  # fmt: skip
        audience = Audience(History(run_folder.history), LineView(console))
        outcome = train_adapter(tuning.model, job, audience)
    return MemoryRun(predicted, outcome.peak_memory_bytes)


if __name__ == "__main__":
    found = _run(int(sys.argv[1]), sys.argv[2:])
    sys.stdout.write(json.dumps({"predicted": found.predicted, "measured": found.measured}) + "\n")
