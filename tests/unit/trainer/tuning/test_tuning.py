"""Each method: trains, is written, and computes the same when PEFT alone loads it again."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from adapters.base.loading import load_base
from adapters.base.modules import adaptable_modules, linear_modules
from adapters.base.training_guard import prepare_for_training
from adapters.format.inspection import inspect_adapter
from tests.unit.trainer.methods.runs import attach, config, loaded, logits, train
from trainer.config import Method
from trainer.errors import MethodError
from trainer.methods.quantization import quantization_for
from trainer.methods.targets import BaseGeometry, count_parameters, match_modules

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("qlora", {}),
    ("rslora", {}),
    ("dora", {}),
    ("dora", {"quantization": {"scheme": "none"}}),
    ("adalora", {}),
    ("ia3", {}),
    ("prompt_tuning", {}),
    ("prompt_tuning", {"prompt": {"init_text": "be polite"}}),
    ("prefix_tuning", {}),
    ("prefix_tuning", {"prompt": {"encoder_hidden": 8}}),
    ("p_tuning", {}),
    ("qlora", {"quantization": {"scheme": "fp4", "double_quant": False}}),
    ("qlora", {"lora": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 3}}}),
    ("qlora", {"lora": {"exclude_modules": ["k_proj"], "lr_ratio": 8}}),
    ("lora", {"lora": {"init": "gaussian"}}),
    ("lora", {"lora": {"init": "orthogonal"}}),
    ("qlora", {"lora": {"init": "pissa", "r": 4}}),
    ("lora", {"lora": {"init": "pissa_niter_4", "r": 4}}),
    ("rslora", {"lora": {"init": "olora", "r": 4}}),
    ("lora", {"lora": {"init": "pissa", "r": 4, "rank_pattern": {"q_proj": 2}}}),
    ("qlora", {"lora": {"init": "corda", "r": 4}}),
    ("qlora", {"lora": {"init": "loftq", "r": 4}}),
    ("qlora", {"lora": {"init": "qera", "r": 4}}),
    ("qlora", {"lora": {"init": "eva", "r": 4}}),
]


@pytest.mark.parametrize(("method", "extra"), METHODS)
def test_what_is_trained_is_what_peft_loads(
    tiny_base: Path, tmp_path: Path, method: str, extra: dict[str, Any]
) -> None:
    settings = config(tiny_base, method=method, **extra)
    base = loaded(settings)
    of_base = logits(base.model)
    modules, adaptable = linear_modules(base.model), adaptable_modules(base.model)
    geometry = BaseGeometry.of(base.model.config)
    tuning = attach(base, settings)
    assert tuning.num_parameters == count_parameters(
        settings, match_modules(settings, modules), geometry
    )
    losses = train(tuning)
    # A prefix of zero keys moves slowly; everything else learns these rows at once.
    assert losses[-1] < (0.99 if method == "prefix_tuning" else 0.97) * losses[0]

    trained = logits(tuning.model)
    assert not torch.allclose(trained, of_base, atol=1e-2)
    tuning.write(tmp_path / "out", torch.float32)
    assert inspect_adapter(tmp_path / "out", adaptable).method != ""  # a server takes it
    fresh = PeftModel.from_pretrained(loaded(settings).model, str(tmp_path / "out"))
    torch.testing.assert_close(logits(fresh), trained, atol=1e-5, rtol=0)
    published = tuning.published(tmp_path / "out")
    torch.testing.assert_close(logits(published), logits(fresh), atol=0, rtol=0)
    with published.disable_adapter():
        torch.testing.assert_close(logits(published), of_base, atol=0, rtol=0)


@pytest.mark.parametrize("method", [m for m in get_args(Method) if m != "full"])
def test_every_method_trains_on_a_base_in_bfloat16(
    tiny_base: Path, tmp_path: Path, method: str
) -> None:
    settings = config(tiny_base, method=method)
    base = load_base(str(tiny_base), quantization_for(settings), dtype=torch.bfloat16)
    prepare_for_training(base.model)
    tuning = attach(base, settings)
    losses = train(tuning, steps=2)
    assert losses[1] < losses[0]
    trained = logits(tuning.model)
    tuning.write(tmp_path, torch.float32)
    torch.testing.assert_close(logits(tuning.published(tmp_path)), trained, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("qlora", {"lora": {"init": "pissa", "r": 4}}),
        ("lora", {"lora": {"init": "olora", "r": 4}}),
        ("qlora", {"lora": {"init": "eva", "r": 4}}),
        ("adalora", {}),
    ],
)
def test_what_starts_in_the_base_is_published_as_plain_lora(
    tiny_base: Path, tmp_path: Path, method: str, extra: dict[str, Any]
) -> None:
    tuning = attach(loaded(config(tiny_base, method=method, **extra)), config(
        tiny_base, method=method, **extra
    ))  # fmt: skip
    train(tuning, steps=2)
    tuning.write(tmp_path, torch.bfloat16)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["peft_type"] == "LORA"
    assert document["init_lora_weights"] is True
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter_model.safetensors").values()} \
        == {torch.bfloat16}  # fmt: skip


def test_a_small_update_survives_bfloat16_after_pissa(tiny_base: Path, tmp_path: Path) -> None:
    settings = config(tiny_base, method="lora", lora={"init": "pissa", "r": 4})
    base = loaded(settings)
    of_base = logits(base.model)
    tuning = attach(base, settings)
    train(tuning, steps=1, learning_rate=1e-4)
    update = logits(tuning.model) - of_base
    tuning.write(tmp_path, torch.bfloat16)
    error = logits(tuning.published(tmp_path)) - of_base - update
    assert error.norm() < 0.02 * update.norm()


def test_fully_trained_modules_come_along_and_leave_the_base_alone(
    tiny_base: Path, tmp_path: Path
) -> None:
    settings = config(tiny_base, lora={"modules_to_save": ["norm"]})
    base = loaded(settings)
    of_base = logits(base.model)
    tuning = attach(base, settings)
    train(tuning)
    trained = logits(tuning.model)
    tuning.write(tmp_path, torch.float32)
    assert any("model.norm" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    published = tuning.published(tmp_path)
    torch.testing.assert_close(logits(published), trained, atol=1e-5, rtol=0)
    with published.disable_adapter():
        torch.testing.assert_close(logits(published), of_base, atol=0, rtol=0)


def test_full_fine_tuning_trains_everything_and_writes_a_model(
    tiny_base: Path, tmp_path: Path
) -> None:
    settings = config(tiny_base, method="full")
    tuning = attach(loaded(settings), settings)
    assert tuning.num_parameters == sum(p.numel() for p in tuning.model.parameters())
    losses = train(tuning)
    assert losses[-1] < 0.5 * losses[0]
    tuning.write(tmp_path, torch.bfloat16)
    for file in tiny_base.glob("*tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    again = loaded(config(tmp_path, method="full"))
    published = tuning.published(tmp_path)
    torch.testing.assert_close(logits(again.model), logits(published), atol=1e-6, rtol=0)


def test_lora_plus_lets_b_learn_faster(tiny_base: Path) -> None:
    settings = config(tiny_base, lora={"lr_ratio": 16})
    tuning = attach(loaded(settings), settings)
    groups = tuning.parameter_groups(tuning.model, 1e-3, 0.1)
    assert groups is not None
    names = {id(p): name for name, p in tuning.model.named_parameters()}
    rates = {
        ("A" if "lora_A" in names[id(p)] else "B", group["lr"])
        for group in groups
        for p in group["params"]
    }
    assert rates == {("A", 1e-3), ("B", 16e-3)}
    assert sum(len(group["params"]) for group in groups) == 2 * 14
    plain = config(tiny_base)
    assert attach(loaded(plain), plain).parameter_groups(tuning.model, 1e-3, 0.1) is None


def test_a_text_that_is_nothing_is_refused(tiny_base: Path) -> None:
    settings = config(tiny_base, method="prompt_tuning", prompt={"init_text": "x"})
    base = loaded(settings)
    base.tokenizer.encode = lambda *args, **kwargs: []
    with pytest.raises(MethodError, match="makes nothing of 'x'"):
        attach(base, settings)
