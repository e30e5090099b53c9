"""Adapters that leave the base as it is are refused when they are loaded, whatever their kind."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from loadtests.fixtures.kinds_factory import KINDS
from server.core.errors import AdapterUnreadableError
from server.native.build import load_native
from tests.unit.server.model.tiny import TinyEngine, tiny_model

UNTRAINED = (
    "lora", "dora", "ia3", "saved_head", "saved_embedding", "lora_with_tokens",
    "trained_tokens", "bias_all",
)  # fmt: skip


def untrained(kind: str, model: Any, folder: Path, change: Callable[[Any], None]) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, on tied heads
        peft_model = peft.get_peft_model(model, KINDS[kind](model))
        change(peft_model)
        peft_model.save_pretrained(folder)
    return folder


def nothing(_: Any) -> None:
    """As PEFT makes it."""


def one_value(peft_model: Any) -> None:
    """One number of a row, or of a saved weight."""
    for name, parameter in peft_model.named_parameters():
        if "trainable_tokens_delta" in name or "modules_to_save" in name:
            parameter.data[-1, -1] += 0.5


@pytest.mark.parametrize("is_native", [False, True])
@pytest.mark.parametrize("kind", UNTRAINED)
def test_untrained_adapters_are_refused(kind: str, is_native: bool, tmp_path: Path) -> None:
    library = load_native() if is_native else None
    if is_native and library is None:
        pytest.skip("no compiler here")
    model = tiny_model("llama").to(torch.bfloat16).float()
    folder = untrained(kind, copy.deepcopy(model), tmp_path / kind, nothing)
    engine = TinyEngine(model, num_pages=64, library=library)
    with pytest.raises(AdapterUnreadableError, match="the adapter has no effect"):
        engine.load(folder, rank=64)


@pytest.mark.parametrize("is_native", [False, True])
@pytest.mark.parametrize("kind", ["saved_head", "saved_embedding", "trained_tokens"])
def test_a_single_value_is_an_effect(kind: str, is_native: bool, tmp_path: Path) -> None:
    library = load_native() if is_native else None
    if is_native and library is None:
        pytest.skip("no compiler here")
    model = tiny_model("llama").to(torch.bfloat16).float()
    folder = untrained(kind, copy.deepcopy(model), tmp_path / kind, one_value)
    assert TinyEngine(model, num_pages=64, library=library).load(folder, rank=64)


def test_a_tied_head_is_compared_with_the_embedding(tmp_path: Path) -> None:
    """gpt2's head is its embedding."""
    model = tiny_model("gpt2")
    for kind in ("saved_head", "trained_tokens"):
        folder = untrained(kind, copy.deepcopy(model), tmp_path / kind, nothing)
        with pytest.raises(AdapterUnreadableError, match="the adapter has no effect"):
            TinyEngine(copy.deepcopy(model), num_pages=64).load(folder, rank=64)
