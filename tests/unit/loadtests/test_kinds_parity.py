from pathlib import Path
from typing import get_args

from loadtests.fixtures.kinds_trained import TRAINED_BY
from loadtests.kinds_parity import measure
from tests.unit.adapters.base.tiny_base import tiny_folder
from trainer.config import LoraSection, Method, PromptSection


def test_what_the_trainer_makes_is_in_its_config() -> None:
    methods = set(get_args(Method)) - {"full"}
    assert {m for trained in TRAINED_BY.values() for m in trained.methods} == methods
    fields = {"lora": LoraSection.model_fields, "prompt": PromptSection.model_fields}
    for trained in TRAINED_BY.values():
        if trained.key is not None:
            section, _, key = trained.key.partition(".")
            assert key in fields[section]


def test_kinds_over_an_nf4_base_equal_peft(tmp_path: Path) -> None:
    """One kind of each mechanism; the command itself measures them all."""
    base = str(tiny_folder(tmp_path / "base"))
    for result in measure(base, 1, ("lora", "dora", "ia3", "prefix_tuning")):
        assert result.same_tokens, result
        assert max(result.alone, result.mixed, result.stacked or 0.0) < 2e-4, result
