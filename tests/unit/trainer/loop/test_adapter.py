"""The adapter on a quantised base: sound gradients, faithful files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.base.loading import load_base
from adapters.base.quantization import NF4, UNQUANTIZED
from adapters.base.training_guard import prepare_for_training
from trainer.batches.collator import collate_rows
from trainer.config import TrainerConfig
from trainer.data.labels import LabelledRow
from trainer.errors import MethodError
from trainer.loop.held_out_loss import held_out_loss
from trainer.loop.loss import loss_sum
from trainer.methods.adapter_files import adapter_tensors
from trainer.methods.quantization import quantization_for
from trainer.methods.targets import match_modules
from trainer.tuning.attachment import attach_adapter
from trainer.tuning.tuning import Tuning

ROWS = tuple(
    LabelledRow(tuple(range(5 + i, 40 + i)), (False,) * 10 + (True,) * 25) for i in range(4)
)


def config(base: Path, **document: Any) -> TrainerConfig:
    document = {"name": "a", "base": str(base), "data": {"train": "x.jsonl"}, **document}
    return TrainerConfig.model_validate(document)


def adapted(base: Path, *, method: str = "qlora") -> Any:
    return tuned(base, method=method).model


def tuned(base: Path, *, method: str = "qlora") -> Tuning:
    settings = config(base, method=method, lora={"r": 4, "dropout": 0})
    loaded = load_base(str(base), quantization_for(settings), dtype=torch.bfloat16)
    prepare_for_training(loaded.model)
    tuning = attach_adapter(loaded, settings, num_steps=1)
    for name, tensor in tuning.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would leave A without gradient
            torch.nn.init.normal_(tensor, std=0.02)
    return tuning


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.train()
    loss_sum(model, collate_rows(ROWS, pad_id=0))[0].backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_gradient_after_an_evaluation_equals_the_gradient_before(tiny_base: Path) -> None:
    model = adapted(tiny_base)
    before = gradients(model)
    held_out_loss(model, ROWS, batch_tokens=64, pad_id=0)
    model.eval()
    with torch.no_grad():
        model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=2, pad_token_id=0)
    after = gradients(model)
    assert before.keys() == after.keys()
    assert len(before) == 2 * 14
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name


def test_trained_weights_are_float32_over_a_4_bit_base(tiny_base: Path) -> None:
    model = adapted(tiny_base)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    base = model.get_base_model()
    assert base.model.layers[0].mlp.down_proj.base_layer.weight.dtype == torch.uint8


def test_lora_trains_on_the_unquantised_base(tiny_base: Path) -> None:
    assert quantization_for(config(tiny_base)) == NF4
    model = adapted(tiny_base, method="lora")
    weight = model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight
    assert weight.dtype == torch.bfloat16
    assert gradients(model)


def test_files_are_the_same_bytes_each_time(tiny_base: Path, tmp_path: Path) -> None:
    tuning = tuned(tiny_base)
    tuning.write(tmp_path / "a", torch.bfloat16)
    tuning.write(tmp_path / "b", torch.bfloat16)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    document = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert document["base_model_name_or_path"] == str(tiny_base)
    assert document["inference_mode"] is True
    assert document["target_modules"] == sorted(document["target_modules"])


def test_the_seed_draws_the_adapter(tiny_base: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        loaded = load_base(str(tiny_base), UNQUANTIZED)
        tuning = attach_adapter(loaded, config(tiny_base, seed=seed), num_steps=1)
        tensors = sorted(adapter_tensors(tuning.model).items())
        drawn.append(next(tensor for name, tensor in tensors if "lora_A" in name))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_targets_that_match_nothing_are_named(tiny_base: Path) -> None:
    settings = config(tiny_base, lora={"target_modules": ["q_proj", "query"]})
    modules = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.0.mlp.up_proj": (64, 128)}
    with pytest.raises(MethodError, match=r"query match no linear layer .* it has q_proj"):
        match_modules(settings, modules)
    some = config(tiny_base, lora={"target_modules": ["q_proj"]})
    assert list(match_modules(some, modules)) == ["model.layers.0.self_attn.q_proj"]
