"""A run killed with SIGKILL at a random step and resumed equals one that never stopped."""

import errno
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from adapters.store.store import AdapterStore
from loadtests.kill_and_resume import (
    ended,
    killed_at,
    last_step,
    resume_command,
    run_command,
    run_folder_in,
    write_run,
)
from tests.unit.trainer.tiny import save_tiny_base
from trainer.cli import app
from trainer.config.loading import load_config
from trainer.errors import CheckpointError, ResumeError
from trainer.loop.checkpoints import CheckpointWriter
from trainer.loop.run_folder import RunFolder
from trainer.run.resuming import resume_training
from trainer.run.running import RunResult, run_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_base(tmp_path_factory.mktemp("base")))


def run(config: Path, folder: Path, *overrides: str) -> RunResult:
    loaded = load_config(config, overrides)
    store = AdapterStore(folder / "store")
    return run_training(loaded, store=store, runs=folder / "runs", console=QUIET)


def test_killed_and_resumed_equals_unbroken(base: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = ended(run(write_run(whole, base, every=0), whole).folder.path)
    num_steps = expected.losses[-1][0]
    step = random.randint(8, num_steps - 5)
    assert killed_at(run_command(write_run(broken, base, every=7), broken), broken, step)
    assert step <= last_step(broken) < num_steps, f"killed at step {step}"
    folder = run_folder_in(broken)
    result = resume_training(folder, store=None, console=QUIET)
    assert ended(folder) == expected
    assert result.stored is not None
    assert result.stored.label == "k@1"
    assert result.metrics["num_steps"] == num_steps
    with pytest.raises(ResumeError, match="has ended: it published k@1"):
        resume_training(folder, store=None, console=QUIET)


class InterruptedRunError(Exception):
    """Stands for a crash after a checkpoint."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> None:
    """Let the first write of the checkpoint of `step` fail with `error` before its manifest."""
    real = CheckpointWriter.finish

    def finish(self: CheckpointWriter, current: int) -> None:
        if current == step:
            raise error
        real(self, current)

    monkeypatch.setattr(CheckpointWriter, "finish", finish)


def test_full_disk_then_room_again_equals_unbroken(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_run(tmp_path, base, every=7)
    options = ["--training.max_steps", "18", "--evaluation.every", "4"]
    options += ["--training.schedule", "warmup_stable_decay"]
    expected = ended(run(config, tmp_path / "whole", *options).folder.path)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 14, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(CheckpointError, match=r"step 14 can't be written.*step 7 is kept"):
            run(config, tmp_path / "full", *options)
    folder = run_folder_in(tmp_path / "full")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000007"]
    resume_training(folder, store=None, console=QUIET)
    assert ended(folder) == expected


def test_early_stopping_and_best_weights_survive(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_run(tmp_path, base, every=3)
    # After the first evaluation, none is better by so much.
    options = ["--evaluation.every", "2", "--training.early_stopping.patience", "3"]
    options += ["--training.early_stopping.min_delta", "9"]
    result = run(config, tmp_path / "whole", *options)
    expected = ended(result.folder.path)
    stopped, best = result.metrics["num_steps"], result.metrics["best_step"]
    assert stopped == 2 + 3 * 2
    assert expected.losses[-1][0] == stopped
    measured = {step: loss for step, _, loss in expected.losses if loss is not None}
    assert min(measured, key=measured.__getitem__) == best
    assert result.eval_loss == pytest.approx(measured[int(best)], rel=0.05)
    with monkeypatch.context() as patched:
        step = int(stopped) // 3 * 3
        interrupt_after(patched, step, InterruptedRunError())
        with pytest.raises(InterruptedRunError):
            run(config, tmp_path / "cut", *options)
    folder = run_folder_in(tmp_path / "cut")
    again = resume_training(folder, store=None, console=QUIET)
    assert ended(folder) == expected
    assert again.metrics["best_step"] == best


def test_another_run_is_not_gone_on_with(base: str, tmp_path: Path) -> None:
    config = write_run(tmp_path, base, every=3)
    result = run(
        config, tmp_path, "--training.max_steps", "4", "--publish.gate", "eval_loss < 0.01"
    )
    path = result.folder.path
    assert result.stored is None
    again = resume_training(path, store=None, console=QUIET)  # the gate is still closed
    assert (again.stored, again.eval_loss) == (None, result.eval_loss)
    rows = (tmp_path / "train.jsonl").read_text(encoding="utf-8")
    (tmp_path / "train.jsonl").write_text(rows.replace("Thank", "thank"), encoding="utf-8")
    with pytest.raises(ResumeError, match=r"the data \(then .* changed: going on would mix"):
        resume_training(path, store=None, console=QUIET)
    folder = RunFolder(path)
    document: dict[str, Any] = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**document, "num_processes": 2}))
    assert folder.read_record().num_processes == 2
    with pytest.raises(ResumeError, match="began with 2 processes and there are 1"):
        resume_training(path, store=None, console=QUIET)
    outcome = CliRunner().invoke(app, ["resume", str(tmp_path / "runs")])
    assert outcome.exit_code == 1
    assert "holds no run" in " ".join(outcome.output.split())
    assert resume_command(path)[1:4] == ["-m", "trainer", "resume"]
