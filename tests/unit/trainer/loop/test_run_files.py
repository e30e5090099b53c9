"""Run folders, history and the loss curve."""

import json
from pathlib import Path

import pytest
import yaml

from trainer.config import TrainerConfig
from trainer.loop.history import History, StepRecord
from trainer.loop.run_folder import create_run_folder
from trainer.publish.curve import draw_loss_curve, loss_curve


def test_each_run_has_its_own_folder_and_a_config_that_loads(tmp_path: Path) -> None:
    config = TrainerConfig.model_validate({"name": "a", "base": "b", "data": {"train": "诗.jsonl"}})
    first, second = (create_run_folder(tmp_path, "a") for _ in range(2))
    assert first.path != second.path
    first.write_config(config)
    text = (first.path / "config.yaml").read_text(encoding="utf-8")
    assert "诗.jsonl" in text
    assert TrainerConfig.model_validate(yaml.safe_load(text)) == config


def test_history_is_on_disk_at_once(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add(StepRecord(1, 0.5, loss=2.0))
    history.add(StepRecord(1, 0.5, eval_loss=1.5))
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    history.close()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "epoch": 0.5, "loss": 2.0},
        {"step": 1, "epoch": 0.5, "eval_loss": 1.5},
    ]
    assert len(history.records) == 2


def test_curve_is_a_png_even_of_nothing(tmp_path: Path) -> None:
    records = [StepRecord(i, i / 4, loss=3 / (i + 1)) for i in range(4)]
    for index, some in enumerate(([], [*records, StepRecord(3, 1.0, eval_loss=1.0)])):
        path = tmp_path / f"{index}.png"
        draw_loss_curve(some, path, title="a", measure="loss", base_loss=2.5)
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("num_steps", [1, 3, 200])
def test_curve_counts_whole_steps_and_shows_the_base(num_steps: int) -> None:
    records = [StepRecord(i + 1, 1.0, loss=3 / (i + 1)) for i in range(num_steps)]
    records.append(StepRecord(num_steps, 1.0, eval_loss=1.0))
    (axes,) = loss_curve(records, title="a", measure="loss", base_loss=2.5).axes
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    levels = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert levels["base, held-out loss"] == [2.5, 2.5]
    assert levels["held-out loss"] == [1.0]
