"""Memory by shape: counts that can be checked, and the sizes that everybody knows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from adapters.base.loading import load_base
from adapters.base.quantization import NF4, UNQUANTIZED, QuantizationSpec
from tests.unit.trainer.methods.runs import config
from trainer.errors import ConfigError
from trainer.methods.model_shape import ModelShape, named_shape, shape_of
from trainer.prediction.activations import ForwardSize
from trainer.prediction.memory import (
    BatchSizes,
    MemoryPrediction,
    linear_4bit_bytes,
    predict_memory,
    weight_bytes,
)
from trainer.prediction.tables import duration_text, size_text

SIZES = BatchSizes(ForwardSize(2048, 2048), ForwardSize(0, 0))


def shape(folder: Path) -> ModelShape:
    return shape_of("tiny", AutoConfig.from_pretrained(str(folder)))


@pytest.mark.parametrize(
    ("name", "billions"), [("llama-7b", 6.74), ("llama-13b", 13.02), ("llama-65b", 65.29)]
)
def test_llama_has_its_published_number_of_parameters(name: str, billions: float) -> None:
    assert named_shape(name).num_parameters / 1e9 == pytest.approx(billions, abs=0.005)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="use one of llama-7b"):
        named_shape("llama-8b")


@pytest.mark.parametrize("double_quant", [True, False])
def test_weight_bytes_are_those_of_the_loaded_base(tiny_base: Path, double_quant: bool) -> None:
    spec = QuantizationSpec(double_quant=double_quant)
    model: Any = load_base(str(tiny_base), spec, dtype=torch.bfloat16).model
    real = 0
    for parameter in model.parameters():
        real += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            real += state.absmax.numel() * state.absmax.element_size()
            if double_quant:
                real += state.state2.absmax.numel() * state.state2.absmax.element_size()
    assert weight_bytes(shape(tiny_base), spec, 2) == real


def test_4_bit_linears_take_a_quarter_and_a_little() -> None:
    llama = named_shape("llama-7b")
    share = linear_4bit_bytes(llama, NF4) / (2 * llama.linear_parameters)
    assert share == pytest.approx((4 + 0.127) / 16, abs=1e-3)
    plain = QuantizationSpec(double_quant=False)
    assert linear_4bit_bytes(llama, plain) / (2 * llama.linear_parameters) == 4.5 / 16


def test_qlora_holds_less_than_lora_and_lora_less_than_full() -> None:
    llama = named_shape("llama-7b")
    totals = {
        method: predict_memory(
            config("x", method=method), llama, spec, SIZES, element_bytes=2
        ).total
        for method, spec in (("qlora", NF4), ("lora", UNQUANTIZED), ("full", UNQUANTIZED))
    }
    assert totals["qlora"] < totals["lora"] < totals["full"]
    # The weights alone make the difference between the first two.
    saved = weight_bytes(llama, UNQUANTIZED, 2) - weight_bytes(llama, NF4, 2)
    assert totals["lora"] - totals["qlora"] == saved


def test_an_8_bit_optimizer_and_checkpointing_take_less() -> None:
    llama = named_shape("llama-7b")
    plain = predict_memory(config("x"), llama, NF4, SIZES, element_bytes=2)
    eight = predict_memory(
        config("x"), llama, NF4, SIZES, element_bytes=2, optimizer="paged_adamw_8bit"
    )
    assert eight.optimizer * 4 == plain.optimizer
    recomputed = config("x", training={"gradient_checkpointing": True})
    less = predict_memory(recomputed, llama, NF4, SIZES, element_bytes=2)
    assert less.activations < 0.2 * plain.activations


def test_a_large_evaluation_can_be_the_peak(tiny_base: Path) -> None:
    small = BatchSizes(ForwardSize(8, 4), ForwardSize(4096, 2048))
    prediction = predict_memory(config("x"), shape(tiny_base), NF4, small, element_bytes=2)
    assert prediction.logits == 2048 * 320 * 10


def test_texts() -> None:
    assert (size_text(1234567890), size_text(45_000_000)) == ("1.23 GB", "45.0 MB")
    assert (duration_text(45), duration_text(600), duration_text(9000)) == (
        "45 s",
        "10 min",
        "2.5 h",
    )


def test_the_heap_of_a_process_has_holes_and_a_device_none(tiny_base: Path) -> None:
    def of(tokens: int, process: int | None) -> MemoryPrediction:
        sizes = BatchSizes(ForwardSize(tokens, 8), ForwardSize(0, 0))
        return predict_memory(
            config("x"), shape(tiny_base), NF4, sizes,
            element_bytes=2, process=process, is_lean=True,
        )  # fmt: skip

    host, device = of(4096, 0), of(4096, None)
    assert host.holes == 2 * 8 * 4096 * 64 * 2  # layers, hidden states a layer, bfloat16
    assert replace(host, holes=0) == device
    assert of(40_000, 0).holes == 0, "a block of 5 MB is a map of its own and goes when it is freed"


def test_gradients_count_where_a_forward_of_the_step_left_them(tiny_base: Path) -> None:
    sizes = BatchSizes(ForwardSize(4096, 2048), ForwardSize(0, 0))
    one, two = (
        predict_memory(
            config("x", training={"gradient_accumulation": count}),
            shape(tiny_base), NF4, sizes, element_bytes=2,
        )
        for count in (1, 2)
    )  # fmt: skip
    assert one.gradients == 0
    assert two == replace(one, gradients=one.adapter)
