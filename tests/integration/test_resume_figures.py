"""What was measured of the base before step 1 is a resumed run's too: nobody measures it again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from adapters.store.store import AdapterStore
from loadtests.kill_and_resume import run_folder_in
from tests.integration.test_resume import InterruptedRunError, interrupt_after
from tests.unit.trainer.endpoint import chat_endpoint
from tests.unit.trainer.tiny import save_tiny_base
from trainer.config.loading import load_config
from trainer.loop.run_folder import RunFolder
from trainer.run.resuming import resume_training
from trainer.run.running import RunResult, run_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
QUIET = Console(quiet=True)
JUDGED_ROWS = 3


def write(folder: Path, base: str, judge_url: str) -> Path:
    """A run of eight steps with a judge and samples, a checkpoint after each fourth."""
    rows = [{"instruction": f"item {i}?", "output": "yes"} for i in range(40)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    document: dict[str, Any] = {
        "name": "k", "base": base, "data": {"train": "train.jsonl"}, "lora": {"r": 4},
        "training": {
            "epochs": 4, "max_steps": 8, "batch_tokens": 512, "learning_rate": 1e-2,
            "checkpoints": {"every": 4},
        },
        "evaluation": {
            "samples": 2, "sample_tokens": 4, "metrics": ["perplexity", "judge"],
            "max_rows": JUDGED_ROWS, "answer_tokens": 4, "judge": {"url": judge_url, "model": "j"},
        },
        "publish": {"gate": "none"},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def begin(config: Path, folder: Path) -> RunResult:
    store = AdapterStore(folder / "store")
    return run_training(load_config(config), store=store, runs=folder / "runs", console=QUIET)


def card(result: RunResult) -> str:
    assert result.stored is not None
    return (result.stored.path / "README.md").read_text(encoding="utf-8")


def test_the_base_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(save_tiny_base(tmp_path / "base"))
    asked = 0

    def rating(_body: dict[str, Any]) -> str:
        """2 for what is judged first, 9 for all that comes later."""
        nonlocal asked
        asked += 1
        return f"Rating: [[{2 if asked <= JUDGED_ROWS else 9}]]"

    with chat_endpoint(rating) as judge:
        (tmp_path / "whole").mkdir()
        whole = begin(write(tmp_path / "whole", base, judge.url), tmp_path / "whole")
        asked = 0
        (tmp_path / "cut").mkdir()
        config = write(tmp_path / "cut", base, judge.url)
        with monkeypatch.context() as patched:
            interrupt_after(patched, 8, InterruptedRunError())
            with pytest.raises(InterruptedRunError):
                begin(config, tmp_path / "cut")
        assert asked == JUDGED_ROWS, "the base was judged before step 1, and nothing else was"
        resumed = resume_training(run_folder_in(tmp_path / "cut"), store=None, console=QUIET)
    assert asked == 2 * JUDGED_ROWS, "after going on the adapter alone was judged"
    figures = {name: value for name, value in resumed.metrics.items() if name.startswith("eval_")}
    assert figures == {n: v for n, v in whole.metrics.items() if n.startswith("eval_")}
    assert (figures["eval_judge_base"], figures["eval_judge"]) == (2, 9)
    assert card(resumed) == card(whole)


def test_figures_come_from_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that no measurement would give are in the end those of the manifest and the card."""
    base = str(save_tiny_base(tmp_path / "base"))
    with chat_endpoint(lambda _body: "Rating: [[5]]") as judge:
        config = write(tmp_path, base, judge.url)
        with monkeypatch.context() as patched:
            interrupt_after(patched, 8, InterruptedRunError())
            with pytest.raises(InterruptedRunError):
                begin(config, tmp_path)
        folder = RunFolder(run_folder_in(tmp_path))
        record = folder.read_record()
        assert record.base_measured["loss"] == pytest.approx(6, abs=1.5)
        folder.write_record(dataclasses.replace(record, base_measured={"loss": 77.25}))
        kept = json.loads(folder.base_evaluation.read_text(encoding="utf-8"))
        kept["samples"] = ["answered before step 1", "and this too"]
        folder.base_evaluation.write_text(json.dumps(kept), encoding="utf-8")
        resumed = resume_training(folder.path, store=None, console=QUIET)
    assert resumed.eval_loss_base == 77.25
    assert resumed.stored is not None
    assert resumed.stored.manifest.metrics["eval_loss_base"] == 77.25
    assert "| 77.2500 |" in card(resumed)
    assert "answered before step 1" in card(resumed)
