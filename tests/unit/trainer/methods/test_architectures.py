"""Targets and prompts fit every architecture that the server serves."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from adapters.base.chat_template import ChatTemplate
from adapters.base.loading import LoadedBase, load_base
from adapters.base.modules import linear_modules
from adapters.base.quantization import UNQUANTIZED
from adapters.base.reference import ResolvedBase
from tests.unit.server.model.tiny import CONFIGS, tiny_model
from tests.unit.trainer.methods.runs import attach, config, loaded, logits, train
from tests.unit.trainer.tiny import byte_tokenizer
from trainer.methods.targets import match_modules

METHODS = ("lora", "dora", "adalora", "ia3", "prompt_tuning", "prefix_tuning", "p_tuning")
ARCHITECTURES = sorted(set(CONFIGS) - {"qwen2-sliding", "granite"})
QUICK = {
    *((name, "lora") for name in ARCHITECTURES),
    *((name, "ia3") for name in ("gpt2", "bloom", "gpt-neox", "phi3", "glm4")),
    *((name, "prefix_tuning") for name in ("gpt2", "bloom", "qwen3", "gemma3")),
    ("gpt2", "adalora"),
    ("gpt2", "dora"),
}
CASES = [
    pytest.param(name, method, marks=() if (name, method) in QUICK else pytest.mark.slow)
    for name in ARCHITECTURES
    for method in METHODS
]


def in_memory(name: str) -> LoadedBase:
    resolved = ResolvedBase(name, Path("nowhere"), None, "sha256:0")
    return LoadedBase(tiny_model(name), None, ChatTemplate(""), resolved, UNQUANTIZED)


@pytest.mark.parametrize(("architecture", "method"), CASES)
def test_every_method_trains_and_reloads(architecture: str, method: str, tmp_path: Path) -> None:
    extra = {} if method == "lora" else {"quantization": {"scheme": "none"}}
    settings = config("x", method=method, **extra)
    base = in_memory(architecture)
    wanted = set(match_modules(settings, linear_modules(base.model)))
    of_base = logits(base.model)
    tuning = attach(base, settings)
    adapted = {
        name.removeprefix("base_model.model.")
        for name, module in tuning.model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    assert adapted == wanted
    assert bool(wanted) == (method not in ("prompt_tuning", "prefix_tuning", "p_tuning"))
    train(tuning, steps=3)
    trained = logits(tuning.model)
    assert not torch.allclose(trained, of_base, atol=1e-4)
    tuning.write(tmp_path, torch.float32)
    fresh = PeftModel.from_pretrained(in_memory(architecture).model, str(tmp_path))
    torch.testing.assert_close(logits(fresh), trained, atol=2e-5, rtol=0)


@pytest.mark.parametrize("init", ["loftq", "qera"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_base_from_a_folder_is_mended_in_4_bits(
    architecture: str, init: str, tmp_path: Path
) -> None:
    tiny_model(architecture).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    exact = logits(load_base(str(tmp_path), UNQUANTIZED, dtype=torch.float32).model)
    settings = config(tmp_path, lora={"init": init, "r": 16})
    base = loaded(settings)
    lost = (logits(base.model) - exact).norm()
    left = (logits(attach(base, settings).model) - exact).norm()
    assert 0 < left < 0.9 * lost
