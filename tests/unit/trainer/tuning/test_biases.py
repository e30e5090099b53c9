"""`lora.bias`: the base's own biases are trained, published, and given back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from adapters.base.loading import load_base
from adapters.base.modules import adaptable_modules, linear_modules
from adapters.format.inspection import inspect_adapter
from tests.unit.server.model.tiny import tiny_model
from tests.unit.trainer.methods.runs import attach, config, loaded, logits, train
from tests.unit.trainer.tiny import byte_tokenizer
from trainer.errors import MethodError
from trainer.methods.targets import match_modules
from trainer.tuning.biases import biases_put_back, trained_biases
from trainer.tuning.tuning import bare_base


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def base_with_biases(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    """Of queries, keys and values (qwen2); of every linear and norm (gpt2)."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("method", "bias"),
    [("qlora", "all"), ("qlora", "lora_only"), ("lora", "all"), ("dora", "lora_only")],
)
def test_trained_biases_are_published_and_the_base_gets_its_own_back(
    base_with_biases: Path, tmp_path: Path, method: str, bias: str
) -> None:
    settings = config(base_with_biases, method=method, lora={"bias": bias, "r": 2})
    base = loaded(settings)
    of_base = logits(base.model)
    matched = match_modules(settings, linear_modules(base.model))
    wanted = trained_biases(base.model, settings, matched)
    with biases_put_back(base.model):
        tuning = attach(base, settings)
        moving = [n for n, p in tuning.model.named_parameters() if p.requires_grad]
        assert len([name for name in moving if name.endswith("bias")]) == len(wanted) > 0
        train(tuning)
        trained = logits(tuning.model)
        tuning.write(tmp_path, torch.float32)
        plain = bare_base(tuning.model)
    torch.testing.assert_close(logits(plain), of_base, atol=0, rtol=0)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len([name for name in tensors if name.endswith("bias")]) == len(wanted)
    fresh = loaded(settings)
    assert inspect_adapter(tmp_path, adaptable_modules(fresh.model)).method == "lora"
    again = PeftModel.from_pretrained(fresh.model, str(tmp_path))
    torch.testing.assert_close(logits(again), trained, atol=1e-5, rtol=0)


def test_a_base_without_biases_or_with_rounded_ones_is_refused(
    tiny_base: Path, base_with_biases: Path
) -> None:
    def check(base: Path, dtype: torch.dtype) -> None:
        settings = config(base, lora={"bias": "all"})
        model = load_base(str(base), dtype=dtype).model
        trained_biases(model, settings, match_modules(settings, linear_modules(model)))

    with pytest.raises(MethodError, match="has no bias in any module; use none"):
        check(tiny_base, torch.float32)
    with pytest.raises(MethodError, match="holds them in 16 bits"):
        check(base_with_biases, torch.bfloat16)
