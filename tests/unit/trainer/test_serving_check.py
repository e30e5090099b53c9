"""What a server would refuse is said before anything is trained."""

from pathlib import Path
from typing import Any, get_args

import pytest

from adapters.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest, write_folder
from tests.unit.trainer.methods.runs import config
from trainer.config import Method
from trainer.errors import ServingError
from trainer.methods.targets import BaseGeometry, match_modules
from trainer.serving_check import ServingLimits, limits_of, name_note, serving_problems

MODULES = {
    f"model.layers.0.{name}": (64, 64) for name in ("self_attn.q_proj", "self_attn.k_proj",
                                                     "self_attn.v_proj", "mlp.down_proj")
}  # fmt: skip
GEOMETRY = BaseGeometry(64, 1, 64)


def problems(limits: ServingLimits | None = None, **document: Any) -> tuple[str, ...]:
    settings = config("x", **document)
    matched = match_modules(settings, MODULES)
    return serving_problems(
        settings, matched or MODULES, GEOMETRY, limits or ServingLimits(), num_steps=10
    )


@pytest.mark.parametrize("method", [m for m in get_args(Method) if m != "full"])
def test_every_method_that_makes_an_adapter_is_served(method: str) -> None:
    assert problems(method=method) == ()


def test_full_fine_tuning_is_no_adapter() -> None:
    assert "another base" in problems(method="full")[0]


def test_a_rank_over_the_limit_names_the_flag() -> None:
    (problem,) = problems(lora={"r": 65})
    assert "rank 65, and a server takes up to 64" in problem
    assert "--max-lora-rank 65" in problem
    (doubled,) = problems(lora={"r": 33, "init": "pissa"})
    assert "rank 66" in doubled
    (by_pattern,) = problems(lora={"r": 4, "rank_pattern": {"q_proj": 80}})
    assert "rank 80" in by_pattern


def test_pages_are_counted() -> None:
    (problem,) = problems(ServingLimits(max_rank=1000, pages=4), lora={"r": 40})
    assert "fills 5 pages, and a server has 4" in problem


def test_a_server_with_another_base_or_the_same_name_is_told() -> None:
    limits = ServingLimits(base_id="a", base_reference="other/base")
    assert [p.partition(":")[0] for p in problems(limits)] == ["name", "base"]


def test_what_happens_to_the_name(tmp_path: Path) -> None:
    settings = config("x")
    assert name_note(settings, None, ServingLimits()) == "a is free"
    assert "another store" in name_note(settings, None, ServingLimits(names=("a",)))
    store = AdapterStore(tmp_path / "store")
    store.publish("a", write_folder(tmp_path / "adapter"), manifest("a"))
    assert name_note(settings, store, ServingLimits()) == "a is there: version 2 comes after a@1"


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(ServingError, match="no Switchyard server answers at"):
        limits_of("http://127.0.0.1:9")
