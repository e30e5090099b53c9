"""Two CPU processes under `accelerate launch` train as one does with the doubled batch."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from adapters.store.store import AdapterStore
from loadtests.kill_and_resume import ended, run_command, run_folder_in, write_run
from tests.unit.trainer.tiny import save_tiny_base
from trainer.config.loading import load_config
from trainer.errors import ConfigError
from trainer.loop.processes import ALONE, join_processes
from trainer.run.running import run_training

ROOT = Path(__file__).parents[2]
OPTIONS = ["--lora.dropout", "0", "--training.compute_dtype", "float32", "--training.epochs", "1"]


@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    base = str(save_tiny_base(tmp_path / "base"))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    loaded = load_config(
        write_run(one, base, every=5), [*OPTIONS, "--training.gradient_accumulation", "2"]
    )
    alone = run_training(
        loaded, store=AdapterStore(one / "store"), runs=one / "runs", console=Console(quiet=True)
    )
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", str(ROOT / "examples/accelerate/ddp.yaml")]
    command = run_command(write_run(two, base, every=5), two)[1:]
    finished = subprocess.run(
        [*launcher, *command, *OPTIONS], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
    assert finished.stdout.count("published k@1") == 1
    expected, found = ended(alone.folder.path), ended(run_folder_in(two))
    assert [line[0] for line in found.losses] == [line[0] for line in expected.losses]
    for ours, theirs in zip(found.losses, expected.losses, strict=True):
        assert ours[1:] == tuple(pytest.approx(loss, abs=1e-5) for loss in theirs[1:])
    checkpoints = run_folder_in(two) / "checkpoints"
    assert (next(checkpoints.glob("step-*")) / "rng_state_1.pth").is_file()


def test_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join_processes("cpu") == ALONE
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="use DDP"):
        join_processes("cpu")
