"""Whole runs of dpo, orpo and kto on a tiny random base, and data that can't be used."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import PeftModel
from rich.console import Console

from adapters.base.loading import load_base
from adapters.base.quantization import NF4
from adapters.store.store import AdapterStore
from tests.unit.trainer.tiny import save_tiny_base
from trainer.config.loading import load_config
from trainer.errors import DataError
from trainer.run.running import run_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_base(tmp_path_factory.mktemp("base")))


def write(folder: Path, base: str, rows: list[dict[str, Any]], objective: str) -> Path:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    document = {
        "name": "p", "base": base, "objective": objective, "data": {"train": "train.jsonl"},
        "lora": {"r": 4, "dropout": 0.0}, "evaluation": {"samples": 1, "sample_tokens": 4},
        "training": {"epochs": 4, "learning_rate": 1e-2, "batch_tokens": 1024},
        "publish": {"gate": "eval_reward_accuracy > 0.9"},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def rows_for(objective: str) -> list[dict[str, Any]]:
    if objective == "kto":
        return [
            {
                "prompt": f"item {i}?",
                "completion": "yes, gladly" if i % 2 else "NO!",
                "label": i % 2,
            }
            for i in range(40)
        ]
    rows = []
    for i in range(40):  # UltraFeedback's shape: the question is repeated in both
        question = {"role": "user", "content": f"item {i}?"}
        good, bad = ([question, {"role": "assistant", "content": c}] for c in ("yes", "NO!"))
        rows.append({"prompt": f"item {i}?", "chosen": good, "rejected": bad})
    return rows


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto"])
def test_loss_falls_margin_grows_and_the_adapter_reloads(
    objective: str, base: str, tmp_path: Path
) -> None:
    loaded = load_config(write(tmp_path, base, rows_for(objective), objective))
    store = AdapterStore(tmp_path / "store")
    console = Console(quiet=True)
    result = run_training(loaded, store=store, runs=tmp_path / "runs", console=console)
    assert result.eval_loss < 0.9 * result.eval_loss_base
    history = [json.loads(line) for line in result.folder.history.read_text().splitlines()]
    margins = [one["metrics"]["reward_margin"] for one in history if "metrics" in one]
    assert margins[-1] > margins[0]
    assert margins[-1] > 0
    assert result.metrics["eval_reward_accuracy"] > 0.9
    assert result.stored is not None
    fresh = load_base(base, NF4)
    assert PeftModel.from_pretrained(fresh.model, str(result.stored.path))


def test_all_rows_that_are_no_preferences_are_told_at_once(base: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "yes", "rejected": "no"},
        {"prompt": "b", "chosen": "same", "rejected": "same"},
        {"prompt": "c", "chosen": None, "rejected": "no"},
        {"prompt": [], "chosen": "yes", "rejected": "no"},
    ]
    loaded = load_config(write(tmp_path, base, rows, "dpo"))
    store = AdapterStore(tmp_path / "store")
    with pytest.raises(DataError) as raised:
        run_training(loaded, store=store, runs=tmp_path / "runs", console=Console(quiet=True))
    for part in (
        "3 of 4 rows", "line 2: chosen and rejected: are the same", "line 3: chosen: missing",
        "line 4: prompt: [] must be a text", "objective dpo wants prompt, chosen, rejected",
    ):  # fmt: skip
        assert part in str(raised.value)
