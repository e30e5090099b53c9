"""Exact resume where a run has more state than LoRA's: AdaLoRA's ranks, PiSSA's frozen start, the
reference of a preference run, the random generators of a second process.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from adapters.store.store import AdapterStore
from loadtests.kill_and_resume import Ended, ended, run_folder_in
from tests.integration.test_preference_runs import rows_for
from tests.unit.trainer.tiny import save_tiny_base
from trainer.config.loading import load_config
from trainer.loop.checkpoints import CheckpointWriter
from trainer.run.resuming import resume_training
from trainer.run.running import run_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
QUIET = Console(quiet=True)
STEPS, EVERY, BROKEN_AT = 10, 3, 6
"""The run breaks while it writes the checkpoint of step 6, and goes on from that of step 3."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_base(tmp_path_factory.mktemp("base")))


class InterruptedRunError(Exception):
    """Stands for a crash."""


def write(folder: Path, base: str, extra: dict[str, Any]) -> Path:
    """A run of `STEPS` steps with dropout, and its rows."""
    folder.mkdir(parents=True)
    objective = extra.get("objective", "sft")
    rows: list[dict[str, Any]] = (
        [{"instruction": f"item {i}: {'word ' * (i % 5)}?", "output": f"ok {i}"} for i in range(60)]
        if objective == "sft"
        else rows_for(objective)
    )
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    document: dict[str, Any] = {
        "name": "k", "base": base, "data": {"train": "train.jsonl"},
        "training": {
            "epochs": 9, "max_steps": STEPS, "batch_tokens": 512, "learning_rate": 5e-3,
            "checkpoints": {"every": EVERY},
        },
        "evaluation": {"every": 4, "samples": 0}, "publish": {"gate": "none"},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document | extra), encoding="utf-8")
    return path


def run(config: Path, folder: Path) -> None:
    store = AdapterStore(folder / "store")
    run_training(load_config(config), store=store, runs=folder / "runs", console=QUIET)


def unbroken_and_resumed(
    base: str, tmp_path: Path, extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[Ended, Ended]:
    """What the same run leaves when nothing happens to it, and when it breaks and is resumed."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(write(whole, base, extra), whole)
    real = CheckpointWriter.finish

    def finish(self: CheckpointWriter, step: int) -> None:
        if step == BROKEN_AT:
            raise InterruptedRunError
        real(self, step)

    config = write(broken, base, extra)
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointWriter, "finish", finish)
        with pytest.raises(InterruptedRunError):
            run(config, broken)
    folder = run_folder_in(broken)
    resume_training(folder, store=None, console=QUIET)
    return ended(run_folder_in(whole)), ended(folder)


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(
            {
                "method": "adalora",
                "lora": {"dropout": 0.1},
                "adalora": {"init_r": 6, "target_r": 4, "tinit": 1, "tfinal": 2, "deltaT": 1},
            },
            id="adalora",
        ),
        pytest.param(
            {"method": "lora", "lora": {"r": 4, "dropout": 0.1, "init": "pissa"}}, id="pissa"
        ),
        pytest.param(
            {"method": "qlora", "lora": {"r": 4, "dropout": 0.1, "init": "olora", "lr_ratio": 4}},
            id="olora with LoRA+",
        ),
        pytest.param(
            {"method": "qlora", "objective": "dpo", "lora": {"r": 4, "dropout": 0.1}}, id="dpo"
        ),
        pytest.param(
            {
                "method": "qlora",
                "lora": {"r": 4, "dropout": 0.1},
                "data": {"train": "train.jsonl", "packing": True},
            },
            id="packed",
        ),
    ],
)
def test_a_broken_run_that_is_resumed_equals_the_unbroken(
    base: str, tmp_path: Path, extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, found = unbroken_and_resumed(base, tmp_path, extra, monkeypatch)
    assert expected.losses[-1][0] == STEPS
    assert len({loss for _, loss, _ in expected.losses}) > STEPS // 2
    assert found.losses == expected.losses
    assert found.adapter == expected.adapter


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m ARGUMENTS` in two CPU processes."""
    config = str(ROOT / "examples/accelerate/ddp.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    return subprocess.run(
        [*launcher, "-m", *arguments], capture_output=True, text=True, check=False
    )


def test_two_processes_that_break_and_are_resumed_equal_the_unbroken(
    base: str, tmp_path: Path
) -> None:
    extra = {"method": "qlora", "lora": {"r": 4, "dropout": 0.1}}
    results = {}
    for name in ("whole", "broken"):
        folder = tmp_path / name
        config = write(folder, base, extra)
        options = ["--store", str(folder / "store"), "--runs", str(folder / "runs")]
        program = "tests.integration.breaking_trainer" if name == "broken" else "trainer"
        finished = launched(program, "run", str(config), *options)
        if name == "broken":
            assert finished.returncode != 0
            assert "InterruptedRunError" in finished.stderr
            left = sorted(path.name for path in (run_folder_in(folder) / "checkpoints").iterdir())
            assert f"step-{EVERY:08}" in left
            finished = launched("trainer", "resume", str(run_folder_in(folder)))
        assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
        results[name] = ended(run_folder_in(folder))
    assert results["broken"] == results["whole"]
