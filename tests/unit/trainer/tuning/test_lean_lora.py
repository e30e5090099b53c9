"""LoRA's one function computes what PEFT's forward and autograd do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from adapters.base.loading import load_base
from adapters.base.training_guard import prepare_for_training
from tests.unit.trainer.methods.runs import ROWS, attach, config, loaded
from trainer.batches.collator import collate_rows
from trainer.loop.loss import loss_sum
from trainer.methods.quantization import quantization_for
from trainer.tuning.attachment import attach_adapter
from trainer.tuning.lean_lora import is_lean_config, make_lora_lean


def lean_layers(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, LoraLayer) and "forward" in vars(m)]


def give_peft_its_forward_back(model: Any) -> None:
    for layer in lean_layers(model):
        del layer.forward


def shake(model: Any) -> None:
    """B begins at zero, where A has no gradient."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)


def loss_and_gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    torch.manual_seed(11)  # the dropout's
    loss, _ = loss_sum(model, collate_rows(ROWS[:4], pad_id=0))
    loss.backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return loss.item(), {name: g.clone() for name, g in named.items() if g is not None}


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("lora", {"lora": {"dropout": 0.0}}),
        ("qlora", {"lora": {"dropout": 0.0, "rank_pattern": {"q_proj": 4}}}),
        ("rslora", {"lora": {"dropout": 0.3}}),
        ("qlora", {"training": {"gradient_checkpointing": True}, "lora": {"dropout": 0.1}}),
    ],
)
def test_loss_and_gradients_are_pefts(tiny_base: Path, method: str, extra: dict[str, Any]) -> None:
    model: Any = attach(loaded(settings := config(tiny_base, method=method, **extra)), settings)
    model = model.model
    assert len(lean_layers(model)) == 14
    assert is_lean_config(settings)
    if settings.training.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    shake(model)
    loss, gradients = loss_and_gradients(model)
    give_peft_its_forward_back(model)
    wanted_loss, wanted = loss_and_gradients(model)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        largest = float(wanted[name].abs().max())
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5 * largest, rtol=0, msg=name)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_peft(tiny_base: Path) -> None:
    """Of three runs of one adapter, float32 is the truth; both bfloat16 ones round."""
    settings = config(tiny_base, method="qlora", lora={"dropout": 0.0})
    found: dict[str, dict[str, torch.Tensor]] = {}
    for kind in ("truth", "lean", "peft"):
        dtype = torch.float32 if kind == "truth" else torch.bfloat16
        base = load_base(str(tiny_base), quantization_for(settings), dtype=dtype)
        prepare_for_training(base.model)
        model = attach_adapter(base, settings, num_steps=1).model
        if kind == "peft":
            give_peft_its_forward_back(model)
        shake(model)
        found[kind] = loss_and_gradients(model)[1]

    def error(kind: str) -> float:
        pairs = [(found[kind][name], truth) for name, truth in found["truth"].items()]
        return float(sum((g - t).square().sum() for g, t in pairs)) ** 0.5

    norm = float(sum(truth.square().sum() for truth in found["truth"].values())) ** 0.5
    assert error("peft") < 0.05 * norm
    assert error("lean") < 1.5 * error("peft")


def test_forwards_without_gradients_and_without_the_adapter_are_pefts(tiny_base: Path) -> None:
    settings = config(tiny_base, method="qlora")
    model: Any = attach(loaded(settings), settings).model
    shake(model)
    ids = torch.arange(12)[None] + 5
    model.eval()
    with torch.no_grad():
        adapted = model(ids).logits
        with model.disable_adapter():
            plain = model(ids).logits
    with model.disable_adapter():
        model.train()
        assert torch.equal(model(ids).logits, plain)
    give_peft_its_forward_back(model)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(ids).logits, adapted)


@pytest.mark.parametrize(
    ("method", "extra"),
    [("dora", {}), ("adalora", {}), ("ia3", {}), ("lora", {"lora": {"init": "pissa", "r": 4}})],
)
def test_other_methods_stay_pefts(tiny_base: Path, method: str, extra: dict[str, Any]) -> None:
    settings = config(tiny_base, method=method, **extra)
    assert not is_lean_config(settings)
    model = attach(loaded(settings), settings).model
    assert make_lora_lean(model) == 0
    assert lean_layers(model) == []
