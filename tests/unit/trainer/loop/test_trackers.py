"""W&B and MLflow by name, through modules that stand in for theirs; none without a sentence."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.errors import ConfigError
from trainer.loop.trackers import NoTracker, Tracker, open_tracker


def opened(name: Any, folder: Path, done_steps: int = 0) -> Tracker:
    return open_tracker(
        name, project="switchyard", run_name="polite", folder=folder,
        config={"lora": {"r": 4}, "seed": 1}, done_steps=done_steps,
    )  # fmt: skip


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("end")
    )

    def init(**options: Any) -> Any:
        calls.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Html=str))
    for _ in range(2):
        tracker = opened("wandb", tmp_path)
        tracker.log(3, {"train/loss": 2.0})
        tracker.text(3, "samples", "a < b")
        tracker.close()
    first, logged, text, end = calls[:4]
    assert first["project"] == "switchyard"
    assert first["resume"] == "allow"
    assert first["id"] == calls[4]["id"] == f"polite-{tmp_path.name}"
    assert (logged, end) == ((3, {"train/loss": 2.0}), "end")
    assert text == (3, {"samples": "<pre>a &lt; b</pre>"})


def test_a_tracker_that_can_not_begin_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MlflowException(Exception):  # noqa: N818  MLflow's name
        pass

    def refuse(name: str) -> None:
        raise MlflowException("the file store is in maintenance mode")

    exceptions = SimpleNamespace(MlflowException=MlflowException)
    module = SimpleNamespace(set_experiment=refuse, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    with pytest.raises(ConfigError, match="mlflow can't begin: the file store is in maintenance"):
        opened("mlflow", tmp_path)


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def start_run(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    module = SimpleNamespace(
        set_experiment=lambda name: calls.append(name),
        start_run=start_run,
        log_params=lambda params: calls.append(params),
        log_metrics=lambda values, step: calls.append((step, values)),
        log_text=lambda text, name: calls.append((name, text)),
        end_run=lambda: calls.append("end"),
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    tracker = opened("mlflow", tmp_path)
    tracker.log(3, {"train/loss": 2.0})
    tracker.close()
    assert calls == [
        "switchyard", {"run_name": "polite"}, {"lora.r": 4, "seed": 1},
        (3, {"train/loss": 2.0}), "end",
    ]  # fmt: skip
    calls.clear()
    opened("mlflow", tmp_path, done_steps=3).text(4, "samples", "x")
    assert calls == ["switchyard", {"run_id": "r1"}, ("samples-00000004.md", "x")]


def test_one_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ConfigError, match=r"wandb, but it isn't installed .* 'switchyard\[wandb\]'"
    ):
        opened("wandb", tmp_path)
    assert isinstance(opened("none", tmp_path), NoTracker)


def test_tensorboard_has_numbers_and_texts(tmp_path: Path) -> None:
    tracker = opened("tensorboard", tmp_path, done_steps=2)
    tracker.log(3, {"train/loss": 2.0})
    tracker.text(3, "samples", "hello")
    tracker.close()
    assert any((tmp_path / "tensorboard").glob("events.out.*"))
