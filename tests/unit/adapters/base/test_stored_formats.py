"""Quantised checkpoints: what they hold is what is recorded, or they are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapters.base.errors import BaseUnreadableError
from adapters.base.loading import load_base
from adapters.base.quantization import NF4, UNQUANTIZED, QuantizationSpec
from adapters.base.training_guard import prepare_for_training
from loadtests.fixtures.base_configs import tiny_bases
from tests.unit.adapters.base.tiny_base import save_tokenizer, tiny_folder

TOKENS = torch.arange(3, 11)[None]
SINGLE_NF4 = QuantizationSpec(double_quant=False)


def logits(folder: Path, spec: QuantizationSpec) -> torch.Tensor:
    base = load_base(str(folder), spec, dtype=torch.float32)
    prepare_for_training(base.model)
    with torch.no_grad():
        return torch.Tensor(base.model(TOKENS).logits)


def requantized(folder: Path, target: Path, **options: Any) -> Path:
    """`folder` as transformers and bitsandbytes save it with `options`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=transformers.BitsAndBytesConfig(**options),
        device_map={"": "cpu"},
    )
    model.save_pretrained(target)
    save_tokenizer(target)
    return target


def with_config(folder: Path, **entries: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return folder


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ({"bnb_4bit_quant_type": "nf4"}, SINGLE_NF4),
        ({"bnb_4bit_quant_type": "fp4"}, QuantizationSpec("fp4", double_quant=False)),
        (
            {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
            QuantizationSpec("fp4"),
        ),
        (
            {"bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": torch.bfloat16},
            SINGLE_NF4,
        ),
    ],
)
def test_codes_of_a_file_are_held_and_said_to_be(
    tmp_path: Path, options: dict[str, Any], held: QuantizationSpec
) -> None:
    plain = tiny_folder(tmp_path / "plain")
    folder = requantized(plain, tmp_path / "codes", load_in_4bit=True, **options)
    assert load_base(str(folder), NF4, dtype=torch.float32).quantization == held
    assert torch.equal(logits(folder, NF4), logits(plain, held))


def test_codes_become_plain_weights_where_those_are_asked_for(tmp_path: Path) -> None:
    plain = tiny_folder(tmp_path / "plain")
    folder = requantized(plain, tmp_path / "codes", load_in_4bit=True, bnb_4bit_quant_type="nf4")
    base = load_base(str(folder), UNQUANTIZED, dtype=torch.float32)
    assert base.quantization == UNQUANTIZED
    assert {type(m) for n, m in base.model.named_modules() if "proj" in n} == {torch.nn.Linear}
    assert torch.allclose(logits(folder, UNQUANTIZED), logits(plain, SINGLE_NF4), atol=1e-4)


@pytest.mark.parametrize("config", ["llama", "gpt2"])
def test_8_bit_codes_become_the_4_bit_codes_of_their_values(tmp_path: Path, config: str) -> None:
    """Without the scales not one logit would be near."""
    plain = tmp_path / "plain"
    if config == "gpt2":
        transformers.set_seed(0)
        gpt2 = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=256)
        transformers.GPT2LMHeadModel(gpt2).save_pretrained(plain)
        save_tokenizer(plain)
    else:
        tiny_folder(plain)
    folder = requantized(plain, tmp_path / "int8", load_in_8bit=True)
    wanted = logits(plain, UNQUANTIZED)
    assert torch.allclose(logits(folder, UNQUANTIZED), wanted, atol=0.05 * float(wanted.std()))
    base = load_base(str(folder), NF4, dtype=torch.float32)
    assert base.quantization == NF4
    assert base.model.is_loaded_in_4bit
    got = logits(folder, NF4)
    assert torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1] > 0.95


def test_codes_made_in_memory_are_the_bytes_that_transformers_makes(tmp_path: Path) -> None:
    """An FP8 file whose values are exact gives the NF4 bytes of the plain file with the same."""
    plain = tiny_folder(tmp_path / "plain")
    weights = load_file(plain / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            stored[name] = weight.to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = torch.full((1, 1), 0.5)
            weights[name] = stored[name].float() * 0.5
        else:
            stored[name] = weight
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    folder = tiny_folder(tmp_path / "fp8")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with_config(
        folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]}
    )
    assert torch.equal(logits(folder, UNQUANTIZED), logits(plain, UNQUANTIZED))
    assert torch.equal(logits(folder, NF4), logits(plain, NF4))
    assert load_base(str(folder), NF4).quantization == NF4


def test_mxfp4_experts_are_dequantised(tmp_path: Path) -> None:
    config = tiny_bases()["gpt_oss (sinks)"].make()
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [n for n in weights if n.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = weights.pop(name).shape
        codes = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        weights[f"{name}_blocks"] = codes
        weights[f"{name}_scales"] = torch.full(codes.shape[:3], 122, dtype=torch.uint8)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with_config(tmp_path, quantization_config={"quant_method": "mxfp4"})
    base = load_base(str(tmp_path), NF4, dtype=torch.float32)
    gate = base.model.model.layers[0].mlp.experts.gate_up_proj.detach()
    assert gate.dtype == torch.float32
    assert float(gate.abs().max()) == 6 * 2**-5  # the largest FP4 value, scaled
    assert type(base.model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
        {"quant_method": "quanto", "weights": "int8"},
        {"quant_method": "torchao", "quant_type": "int8_weight_only"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        {"quant_method": "made-up"},
    ],
)
@pytest.mark.parametrize("place", ["config", "text_config"])
def test_a_format_that_cant_be_turned_into_4_bits_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], place: str
) -> None:
    folder = tiny_folder(tmp_path)
    entry = {"quantization_config": settings}
    with_config(folder, **(entry if place == "config" else {"text_config": entry}))
    with pytest.raises(BaseUnreadableError) as refused:
        load_base(str(folder))
    assert settings["quant_method"] in str(refused.value)
    assert "name the model that it was made from" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "method"), [("hf_quant_config.json", "modelopt"), ("quantize_config.json", "gptq")]
)
def test_a_format_that_only_a_file_beside_the_config_tells(
    tmp_path: Path, file: str, method: str
) -> None:
    (tiny_folder(tmp_path) / file).write_text("{}")
    with pytest.raises(BaseUnreadableError, match=method):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "suffix", "said"),
    [
        ({"load_in_4bit": True}, "up_proj.weight.absmax", "up_proj.weight.absmax"),
        ({"load_in_8bit": True}, "up_proj.SCB", "up_proj.SCB"),
    ],
)
def test_codes_or_scales_that_a_file_lacks(
    tmp_path: Path, options: dict[str, bool], suffix: str, said: str
) -> None:
    folder = requantized(tiny_folder(tmp_path / "plain"), tmp_path / "codes", **options)
    weights = load_file(folder / "model.safetensors")
    kept = {n: w for n, w in weights.items() if f"layers.1.mlp.{suffix}" not in n}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseUnreadableError, match=said):
        load_base(str(folder))
