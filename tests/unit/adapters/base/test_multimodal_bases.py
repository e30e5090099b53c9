"""The text part of bases that also see and hear."""

from pathlib import Path

import pytest
import torch
import transformers

from adapters.base.architecture import base_config
from adapters.base.loading import load_base
from adapters.base.modules import adaptable_modules, adaptable_modules_from_config, linear_modules
from adapters.base.quantization import NF4, UNQUANTIZED
from loadtests.fixtures.base_configs import tiny_bases
from tests.unit.adapters.base.tiny_base import save_tokenizer

NAMES = [name for name, base in tiny_bases().items() if "text_config" in base.values]
SENSES = ("vision", "visual", "projector", "audio", "image")


def saved(name: str, folder: Path) -> transformers.PreTrainedModel:
    """The whole model, as it is published."""
    torch.manual_seed(0)
    config = tiny_bases()[name].make()
    model = transformers.AutoModelForImageTextToText.from_config(config).float().eval()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    assert any(sense in n for n, _ in model.named_modules() for sense in SENSES)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_text_part_alone_gives_the_logits_of_the_whole(tmp_path: Path, name: str) -> None:
    whole = saved(name, tmp_path)
    tokens = torch.arange(3, 11)[None]
    plain = load_base(str(tmp_path), UNQUANTIZED, dtype=torch.float32).model
    with torch.no_grad():
        assert torch.equal(plain(input_ids=tokens).logits, whole(input_ids=tokens).logits)
    model = load_base(str(tmp_path), NF4, dtype=torch.float32).model
    for held in (plain, model):
        kept = [n for n, _ in (*held.named_parameters(), *held.named_buffers())]
        assert not [n for n in kept if any(sense in n for sense in SENSES)]
    linears = linear_modules(model)
    packed = {n for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}
    assert {n for n in packed if n.endswith("q_proj")} == {n for n in linears if "q_proj" in n}
    assert adaptable_modules_from_config(base_config(tmp_path)) == adaptable_modules(model)


@pytest.mark.parametrize("name", ["mistral3 (Small 3.x)", "qwen3_vl", "gemma3 (4b+, multimodal)"])
def test_adapters_of_the_whole_model_are_named_as_the_text_part_is(
    tmp_path: Path, name: str
) -> None:
    whole = saved(name, tmp_path)
    model = load_base(str(tmp_path), NF4).model
    named = {n for n in linear_modules(whole) if n.startswith("model.language_model.")}
    assert named
    assert named <= set(linear_modules(model))
