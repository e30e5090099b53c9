"""A base of which something is missing, made up or no number is refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapters.base.errors import BaseUnreadableError
from adapters.base.loading import load_base
from adapters.base.quantization import NF4, UNQUANTIZED
from tests.unit.adapters.base.tiny_base import tiny_folder

Weights = dict[str, torch.Tensor]


def refusal(folder: Path) -> str:
    """The sentence with which both formats refuse it."""
    said = []
    for spec in (NF4, UNQUANTIZED):
        with pytest.raises(BaseUnreadableError) as refused:
            load_base(str(folder), spec)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert str(folder) in said[0]
    return said[0]


def with_weights(folder: Path, change: Callable[[Weights], object]) -> Path:
    file = tiny_folder(folder) / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **entries: object) -> Path:
    file = tiny_folder(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.1.mlp.up_proj.weight",
    ],
)
def test_a_weight_that_transformers_would_make_up(tmp_path: Path, name: str) -> None:
    assert name in refusal(with_weights(tmp_path, lambda weights: weights.pop(name)))


def test_the_names_of_many_missing_weights_are_bounded(tmp_path: Path) -> None:
    said = refusal(with_config(tmp_path, num_hidden_layers=9))
    assert "model.layers.2." in said
    assert "and 58 more" in said


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "score.weight"])
def test_a_weight_without_a_place(tmp_path: Path, name: str) -> None:
    extra = {name: torch.ones(64, 64)}
    assert name in refusal(with_weights(tmp_path, lambda weights: weights.update(extra)))


def test_old_buffers_of_positions_are_no_weights(tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    load_base(str(with_weights(tmp_path, lambda weights: weights.update(extra))))


def test_a_weight_of_another_shape(tmp_path: Path) -> None:
    said = refusal(with_config(tmp_path, intermediate_size=96))
    assert "model.layers.0.mlp.down_proj.weight ((64, 128) for (64, 96))" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_weights_that_are_no_numbers(tmp_path: Path, name: str, value: float) -> None:
    def spoil(weights: Weights) -> None:
        weights[name] = weights[name].bfloat16()
        weights[name].view(-1)[-1] = value

    assert name in refusal(with_weights(tmp_path, spoil))


@pytest.mark.parametrize("num_bytes", [0, 4, 100, -100])
def test_a_truncated_file(tmp_path: Path, num_bytes: int) -> None:
    file = tiny_folder(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:num_bytes])
    assert "model.safetensors" in refusal(tmp_path)


def test_a_shard_that_isnt_there(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    first, *_ = sorted(folder.glob("*.safetensors"))
    first.unlink()
    assert first.name in refusal(folder)


def test_weights_under_a_name_that_isnt_read(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert "model.safetensors" in refusal(folder)


def test_no_tokenizer(tmp_path: Path) -> None:
    for file in tiny_folder(tmp_path).glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]"])
def test_an_unreadable_tokenizer(tmp_path: Path, text: str) -> None:
    (tiny_folder(tmp_path) / "tokenizer.json").write_text(text)
    assert "tokenizer" in refusal(tmp_path)


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rotary_embeddings_of_an_unknown_type(tmp_path: Path, key: str) -> None:
    rope = {"rope_type": "spiral", "rope_theta": 10000.0, "factor": 2.0}
    assert "spiral" in refusal(with_config(tmp_path, **{"rope_parameters": None, key: rope}))


def test_an_unknown_architecture(tmp_path: Path) -> None:
    assert "elephant" in refusal(with_config(tmp_path, model_type="elephant"))


def test_an_architecture_that_generates_no_text(tmp_path: Path) -> None:
    assert "vit" in refusal(with_config(tmp_path, model_type="vit"))


def test_code_of_the_models_own_is_not_run(tmp_path: Path) -> None:
    mapped = {"AutoConfig": "configuration_own.OwnConfig"}
    said = refusal(with_config(tmp_path, model_type="own", auto_map=mapped))
    assert "config.json can't be used" in said


def test_a_base_that_an_adapter_lies_in(tmp_path: Path) -> None:
    (tiny_folder(tmp_path) / "adapter_config.json").write_text("{}")
    assert "adapter_config.json" in refusal(tmp_path)
