"""PiSSA, OLoRA, LoftQ and QERA begin where PEFT and the papers have them begin."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

from adapters.base.loading import load_base
from adapters.base.quantization import UNQUANTIZED
from tests.unit.trainer.methods.runs import attach, config, loaded, logits
from trainer.data.labels import LabelledRow
from trainer.tuning import qera
from trainer.tuning.corda import corda_factors, input_covariances
from trainer.tuning.qera import grouped, output_error_factors
from trainer.tuning.starting_point import (
    base_factors,
    dequantized_weight,
    difference_factors,
    residual_factors,
)


class OneLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(24, 40, bias=False)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_factors_are_those_of_peft(init: str) -> None:
    torch.manual_seed(0)
    model = OneLinear()
    weight = model.proj.weight.detach().clone()
    peft_config = LoraConfig(r=4, lora_alpha=8, target_modules=["proj"], init_lora_weights=init)
    layer = get_peft_model(model, peft_config).base_model.model.proj
    a, b = base_factors(init, weight, 4, 2.0)
    theirs = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(b @ a, theirs, atol=1e-5, rtol=0)
    residual = layer.base_layer.weight
    torch.testing.assert_close(residual + 2.0 * b @ a, weight, atol=1e-5, rtol=0)


def test_corda_is_that_of_peft(tiny_base: Path) -> None:
    rows = [LabelledRow(tuple(range(5 + i, 45 + i)), (True,) * 40) for i in range(6)]
    model = load_base(str(tiny_base), UNQUANTIZED, dtype=torch.float32).model
    target = "model.layers.1.mlp.down_proj"
    layer: Any = model.get_submodule(target)
    weight = layer.weight.detach().clone()
    covariance = input_covariances(model, {"x": layer}, rows)["x"]
    a, b = corda_factors(weight, covariance, 4, 2.0)

    peft_config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["layers.1.mlp.down_proj"], init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="ipm", verbose=False),
    )  # fmt: skip
    preprocess_corda(
        model, peft_config, lambda: [model(torch.tensor([row.token_ids])) for row in rows]
    )
    theirs = get_peft_model(model, peft_config).base_model.model.get_submodule(target)
    product = theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight
    # The covariance of six rows is nearly singular: its inverse magnifies rounding.
    assert (b @ a - product).norm() < 1e-3 * product.norm()
    torch.testing.assert_close(theirs.base_layer.weight + 2.0 * b @ a, weight, atol=1e-3, rtol=0)


def test_corda_keeps_what_the_data_uses() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(40, 24), torch.randn(200, 3) @ torch.randn(3, 24)
    a, b = corda_factors(weight, x.T @ x / 200, 3, 2.0)
    error = x @ (weight - 2.0 * b @ a).T
    assert error.norm() < 0.05 * (x @ weight.T).norm()


def test_fast_pissa_comes_close_to_the_exact_one() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 24) @ torch.diag(0.7 ** torch.arange(24)) @ torch.randn(24, 24)
    exact = torch.linalg.multi_dot([*reversed(base_factors("pissa", weight, 4, 1.0))])
    fast = torch.linalg.multi_dot([*reversed(base_factors("pissa_niter_30", weight, 4, 1.0))])
    torch.testing.assert_close(fast, exact, atol=1e-2, rtol=0)


def test_a_difference_is_exact_and_evenly_split() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 24), torch.randn(40, 3)
    a_start, b_start = a + 1e-4 * torch.randn(3, 24), b + 1e-4 * torch.randn(40, 3)
    factor_a, factor_b = difference_factors(a, b, a_start, b_start, 2.0)
    wanted = 2.0 * (b.double() @ a.double() - b_start.double() @ a_start.double())
    assert factor_a.shape == (6, 24)
    error = factor_b.double() @ factor_a.double() - wanted
    assert error.norm() < 1e-5 * wanted.norm()
    torch.testing.assert_close(factor_a.norm(), factor_b.norm())


def test_loftq_starts_nearer_to_the_unquantised_weights(tiny_base: Path) -> None:
    settings = config(tiny_base, lora={"init": "loftq", "r": 16})
    exact = load_base(str(tiny_base), UNQUANTIZED, dtype=torch.float32).model
    base = loaded(settings)
    error_before = (logits(base.model) - logits(exact)).norm()
    tuning = attach(base, settings)
    error_after = (logits(tuning.model) - logits(exact)).norm()
    assert error_after < 0.8 * error_before

    layer = tuning.model.base_model.model.model.layers[0].mlp.up_proj
    quantized = dequantized_weight(layer.base_layer)
    weight = exact.model.layers[0].mlp.up_proj.weight
    update = layer.scaling["default"] * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    left = torch.linalg.svdvals(weight - quantized)[16:].norm()  # Eckart-Young
    torch.testing.assert_close((weight - quantized - update).norm(), left, rtol=1e-3, atol=0)


def test_qera_is_the_closed_form_of_its_paper() -> None:
    torch.manual_seed(0)
    residual, x = torch.randn(40, 24), torch.randn(300, 24) @ torch.randn(24, 24)
    seen = x.T @ x / 300
    a, b = output_error_factors(residual, seen, 4, 2.0)
    torch.testing.assert_close(a.norm(), b.norm())
    damped = seen.double() + torch.eye(24) * seen.diagonal().mean() * 0.01
    values, vectors = torch.linalg.eigh(damped)
    root, inverse = (vectors @ torch.diag(values**p) @ vectors.T for p in (0.5, -0.5))
    u, s, vh = torch.linalg.svd(residual.double() @ root)
    theirs = u[:, :4] * s[:4] @ vh[:4] @ inverse
    torch.testing.assert_close(2.0 * b @ a, theirs.float(), atol=1e-4, rtol=0)

    def left(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (x @ (residual - 2.0 * b @ a).T).norm()

    assert left(a, b) < 0.95 * left(*residual_factors(residual, 4, 2.0))


def test_qera_starts_nearer_to_the_unquantised_outputs_than_loftq(tiny_base: Path) -> None:
    exact = load_base(str(tiny_base), UNQUANTIZED, dtype=torch.float32).model
    errors = {}
    for init in ("loftq", "qera"):
        settings = config(tiny_base, lora={"init": init, "r": 8})
        tuning = attach(loaded(settings), settings)
        errors[init] = (logits(tuning.model) - logits(exact)).norm()
    assert errors["qera"] < errors["loftq"]


def test_layers_are_looked_at_in_groups_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qera, "_GROUP_BYTES", 4 * 2 * 8**2)
    inputs = {"a": 8, "b": 8, "c": 4, "d": 64, "e": 8}
    groups = [list(group) for group in grouped(dict.fromkeys(inputs), inputs)]
    assert groups == [["a", "b"], ["c"], ["d"], ["e"]]


def test_residual_factors_of_full_rank_are_exact() -> None:
    residual = torch.randn(6, 4)
    a, b = residual_factors(residual, 4, 0.5)
    torch.testing.assert_close(0.5 * b @ a, residual, atol=1e-5, rtol=0)


@pytest.mark.parametrize("init", ["pissa", "corda"])
def test_a_fresh_start_in_the_base_changes_nothing(tiny_base: Path, init: str) -> None:
    settings = config(tiny_base, lora={"init": init, "r": 4})
    base = loaded(settings)
    of_base = logits(base.model)
    tuning = attach(base, settings)
    torch.testing.assert_close(logits(tuning.model), of_base, atol=1e-4, rtol=0)
    frozen = [n for n, p in tuning.model.named_parameters() if ".start." in n and p.requires_grad]
    assert frozen == []
    state = tuning.state()
    assert len(state) == 2 * 14
    for name, tensor in tuning.model.named_parameters():
        if ".start." in name:
            tensor.data.zero_()
    tuning.restore(tuning.model, state)
    torch.testing.assert_close(logits(tuning.model), of_base, atol=1e-4, rtol=0)
