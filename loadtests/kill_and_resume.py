"""Kill a training run with SIGKILL at random steps, resume it, and compare with one never killed.

    python -m loadtests.kill_and_resume                      # 100 kills of a run with a tiny base
    python -m loadtests.kill_and_resume --kills 5 --base embedded:smollm2-135m-instruct

Dropout is on. Each run is killed one or more times, also while it is being resumed, until all kills
are spent. Then its losses must equal the unbroken run's to the last printed digit, and its adapter
must have the same bytes. The exit code is 1 when one differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NUM_ROWS = 80
_OVERRIDES = {
    "method": "qlora",
    "lora": {"r": 4, "dropout": 0.1},
    "training": {"epochs": 3, "batch_tokens": 512, "learning_rate": 5e-3, "warmup_share": 0.2},
    "evaluation": {"every": 10, "samples": 0},
    "publish": {"gate": "none"},
}


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run that came to its end left: (step, loss, held-out loss) lines and the adapter."""

    losses: tuple[tuple[int, float | None, float | None], ...]
    adapter: bytes


def write_run(folder: Path, base: str, every: int) -> Path:
    """A config and its rows, with a checkpoint every so many steps; returns the config's path."""
    rows = [
        {
            "instruction": f"item {i}: {'word ' * (i * 13 % 9)}?",
            "output": f"Thank you! {i * 7 % 41}",
        }
        for i in range(NUM_ROWS)
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    document: dict[str, Any] = {"name": "k", "base": base, "data": {"train": "train.jsonl"}}
    document |= json.loads(json.dumps(_OVERRIDES))
    document["training"]["checkpoints"] = {"every": every}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def run_command(config: Path, folder: Path) -> list[str]:
    """`trainer run` into `folder`."""
    options = ["--store", str(folder / "store"), "--runs", str(folder / "runs")]
    return [sys.executable, "-m", "trainer", "run", str(config), *options]


def resume_command(run_folder: Path) -> list[str]:
    """`trainer resume`."""
    return [sys.executable, "-m", "trainer", "resume", str(run_folder)]


def killed_at(command: list[str], folder: Path, step: int) -> bool:
    """Start `command`, kill it with SIGKILL once `step` is in the history of a run in `folder`.

    Returns whether it was killed, and not at its end before that. Raises `RuntimeError` with what
    it printed when it failed.
    """
    log = folder / "output.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if last_step(folder) >= step:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    return process.returncode == -signal.SIGKILL
                time.sleep(0.002)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise RuntimeError(log.read_text(encoding="utf-8")[-3000:])
    return False


def run_folder_in(folder: Path) -> Path:
    """The one run folder under `folder`."""
    (found,) = (folder / "runs").glob("k/*")
    return found


def last_step(folder: Path) -> int:
    """The last step in the history under `folder`; 0 before there is one."""
    for path in (folder / "runs").glob("k/*/history.jsonl"):
        steps = [line["step"] for line in _lines(path)]
        return int(steps[-1]) if steps else 0
    return 0


def ended(run_folder: Path) -> Ended:
    """What the run in `run_folder` left."""
    lines = _lines(run_folder / "history.jsonl")
    losses = tuple((line["step"], line.get("loss"), line.get("eval_loss")) for line in lines)
    return Ended(losses, (run_folder / "adapter/adapter_model.safetensors").read_bytes())


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in text if line.endswith("\n")]


def _trial(folder: Path, base: str, kills: int, num_steps: int, draw: random.Random) -> list[int]:
    """One run, killed at most `kills` times; returns the steps at which it was."""
    folder.mkdir()
    config = write_run(folder, base, every=draw.randint(1, 12))
    command = run_command(config, folder)
    killed: list[int] = []
    while len(killed) < kills:
        step = draw.randint(1, num_steps)
        if not killed_at(command, folder, max(step, last_step(folder) - 12)):
            return killed
        killed.append(last_step(folder))
        command = resume_command(run_folder_in(folder))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return killed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--per-run", type=int, default=5, help="kills of one run, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", help="default: a random Llama of two layers")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = options.base or _tiny_base(folder / "base")
        whole = folder / "whole"
        whole.mkdir()
        subprocess.run(run_command(write_run(whole, base, every=0), whole), check=True)
        expected = ended(run_folder_in(whole))
        num_steps = last_step(whole)
        done = wrong = runs = 0
        while done < options.kills:
            runs += 1
            trial = folder / f"trial-{runs}"
            wanted = min(draw.randint(1, options.per_run), options.kills - done)
            killed = _trial(trial, base, wanted, num_steps, draw)
            same = ended(run_folder_in(trial)) == expected
            done, wrong = done + len(killed), wrong + (not same)
            print(f"run {runs}: killed after steps {killed}: {'equal' if same else 'DIFFERS'}")
        print(
            f"{done} kills in {runs} runs of {num_steps} steps: "
            + (f"{wrong} DIFFER" if wrong else "all losses and adapter bytes equal the unbroken's")
        )
    return 1 if wrong else 0


def _tiny_base(folder: Path) -> str:
    from tests.unit.trainer.tiny import save_tiny_base

    return str(save_tiny_base(folder))


if __name__ == "__main__":
    sys.exit(main())
