"""Device and optimiser choices, and which trainer_args are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config import TrainerConfig
from trainer.data.labels import LabelledRow
from trainer.errors import ConfigError
from trainer.loop.plan import make_plan
from trainer.loop.training_arguments import (
    choose_attention,
    choose_optimizer,
    resolve_device,
    training_arguments,
)


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


def test_flash_attention_is_taken_where_it_runs() -> None:
    def choose(wanted: str, device: str = "cuda", *, has_flash: bool = True) -> str | None:
        return choose_attention(wanted, device, torch.bfloat16, has_flash=has_flash)

    assert choose("auto") == "flash_attention_2"
    assert choose("auto", has_flash=False) is None
    assert choose("auto", "cpu") is None
    assert choose_attention("auto", "cuda", torch.float32, has_flash=True) is None
    assert choose("eager") == "eager"
    with pytest.raises(ConfigError, match="flash-attn isn't installed"):
        choose("flash_attention_2", has_flash=False)
    with pytest.raises(ConfigError, match="runs on CUDA in 16 bits, and this is cpu"):
        choose("flash_attention_2", "cpu")


def test_optimizer_follows_the_device() -> None:
    assert choose_optimizer("auto", "cpu") == "adamw_torch"
    assert choose_optimizer("auto", "cuda") == "paged_adamw_8bit"
    assert choose_optimizer("adamw", "cuda") == "adamw_torch"
    with pytest.raises(ConfigError, match="pages GPU memory"):
        choose_optimizer("paged_adamw_8bit", "cpu")


def test_device_is_what_there_is() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == expected
    assert resolve_device("cpu") == "cpu"
    if expected == "cpu":
        with pytest.raises(ConfigError, match="torch sees no CUDA device"):
            resolve_device("cuda")
