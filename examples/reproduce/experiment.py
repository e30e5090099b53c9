"""One training run in a process of its own, and its record: losses, seconds, peak memory."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "config.yaml"
RECORDS = Path("var/reproduce")
"""Records of finished runs, by their overrides: a table that was interrupted goes on from there."""

RESULTS = HERE.parent.parent / "docs" / "results"


def record_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Train `config.yaml` with `overrides`, or read what such a run gave before."""
    key = hashlib.sha256(json.dumps([CONFIG.read_text(), *overrides]).encode()).hexdigest()[:16]
    file = RECORDS / f"{key}.json"
    if not file.is_file():
        RECORDS.mkdir(parents=True, exist_ok=True)
        sys.stderr.write(f"training {' '.join(overrides)}\n")
        command = [sys.executable, str(Path(__file__).resolve()), str(file), *overrides]
        subprocess.run(command, check=True, stdout=sys.stderr)
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def _train(file: Path, overrides: Sequence[str]) -> None:
    from adapters.base.host_memory import save_host_memory
    from trainer.config.loading import load_config
    from trainer.quiet import quiet_libraries

    loaded = load_config(CONFIG, overrides)
    save_host_memory()
    quiet_libraries()
    from rich.console import Console

    from adapters.store.store import AdapterStore
    from trainer.run.running import run_training

    with tempfile.TemporaryDirectory() as folder:
        result = run_training(
            loaded, store=AdapterStore(Path(folder) / "store"), runs=Path(folder) / "runs",
            console=Console(stderr=True),
        )  # fmt: skip
        history = [json.loads(line) for line in result.folder.history.read_text().splitlines()]
    steps = [line for line in history if "loss" in line]
    record = {
        "overrides": list(overrides),
        "eval_loss_base": result.eval_loss_base,
        "eval_loss": result.eval_loss,
        "num_steps": len(steps),
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "peak_bytes": _peak_resident_bytes(),
    }
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _peak_resident_bytes() -> int:
    """The most memory that this process ever held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    _train(Path(sys.argv[1]), sys.argv[2:])
