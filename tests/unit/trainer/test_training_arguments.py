"""Device and optimiser choices, and which trainer_args are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config import TrainerConfig
from trainer.errors import ConfigError
from trainer.labels import LabelledRow
from trainer.plan import make_plan
from trainer.training_arguments import choose_optimizer, resolve_device, training_arguments


def config(**document: Any) -> TrainerConfig:
    return TrainerConfig.model_validate(
        {"name": "a", "base": "b", "data": {"train": "x.jsonl"}, **document}
    )


def arguments(folder: Path, settings: TrainerConfig) -> Any:
    rows = [LabelledRow((1,) * 50, (True,) * 50)] * 40
    return training_arguments(settings, make_plan(settings, rows), folder)


def test_config_and_plan_reach_transformers(tmp_path: Path) -> None:
    settings = config(training={"epochs": 3, "device": "cpu", "learning_rate": 1e-3}, seed=5)
    passed = arguments(tmp_path, settings)
    assert passed.num_train_epochs == 1  # all epochs are in the plan
    assert (passed.learning_rate, passed.seed, passed.use_cpu) == (1e-3, 5, True)
    assert passed.report_to == []


def test_trainer_args_pass_through(tmp_path: Path) -> None:
    settings = config(trainer_args={"adam_beta2": 0.95}, training={"device": "cpu"})
    assert arguments(tmp_path, settings).adam_beta2 == 0.95


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 1}, "trainer_args.seed: set by the other sections"),
        ({"adam_beta9": 1}, "adam_beta9"),
    ],
)
def test_other_trainer_args_are_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        arguments(tmp_path, config(trainer_args=given, training={"device": "cpu"}))


def test_optimizer_follows_the_device() -> None:
    assert choose_optimizer("auto", "cpu") == "adamw_torch"
    assert choose_optimizer("auto", "cuda") == "paged_adamw_8bit"
    assert choose_optimizer("adamw", "cuda") == "adamw_torch"
    with pytest.raises(ConfigError, match="pages GPU memory"):
        choose_optimizer("paged_adamw_8bit", "cpu")


def test_device_is_what_there_is() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device(config()) == expected
    assert resolve_device(config(training={"device": "cpu"})) == "cpu"
    if expected == "cpu":
        with pytest.raises(ConfigError, match="torch sees no CUDA device"):
            resolve_device(config(training={"device": "cuda"}))
