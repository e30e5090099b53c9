"""What PEFT itself saves is what we read, and the factors mean the same."""

from pathlib import Path
from typing import Any

import pytest

from adapters.format.adapter_config import read_adapter_config
from adapters.format.digest import adapter_digest
from adapters.format.inspection import inspect_adapter
from adapters.format.lora_config import parse_lora_config

MODULES = {f"layers.{i}.{name}": (6, 10) for i in range(2) for name in ("q_proj", "v_proj")}


def _save(folder: Path, **changes: Any) -> dict[str, float]:
    """Save a LoRA adapter with PEFT; returns module -> scaling as PEFT computes it."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")

    class Base(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(
                torch.nn.ModuleDict({n: torch.nn.Linear(6, 10) for n in ("q_proj", "v_proj")})
                for _ in range(2)
            )

    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **changes)
    torch.manual_seed(0)
    model = peft.get_peft_model(Base(), config)
    model.save_pretrained(folder)
    return {
        name.removeprefix("base_model.model."): module.scaling["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "scaling")
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"layers.1.q_proj": 2}, "alpha_pattern": {r"layers\.\d.v_proj": 3}},
    ],
)
def test_scalings_and_ranks(tmp_path: Path, changes: dict[str, Any]) -> None:
    scalings = _save(tmp_path, **changes)
    assert set(scalings) == set(MODULES)
    inspection = inspect_adapter(tmp_path, MODULES)
    assert set(inspection.matched) == set(MODULES)
    config = parse_lora_config(read_adapter_config(tmp_path / "adapter_config.json"), [])
    assert config is not None
    assert {module: config.scaling_of(module) for module in MODULES} == scalings
    assert inspection.ranks["layers.1.q_proj"] == (2 if "rank_pattern" in changes else 4)


def test_the_digest_outlives_a_round_trip_through_peft(tmp_path: Path) -> None:
    _save(tmp_path / "a", lora_dropout=0.1)
    _save(tmp_path / "b")
    assert adapter_digest(tmp_path / "a") == adapter_digest(tmp_path / "b")
