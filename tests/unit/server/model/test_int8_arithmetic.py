"""Int8 arithmetic through whole models: close to exact inputs, bitwise the same in any batch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.base.training_guard import prepare_for_training
from loadtests.fixtures.kinds_engine import KindsEngine, Stack
from loadtests.fixtures.kinds_factory import INVOCATION, make_kind
from server.core.settings import SchedulerSettings
from server.native.build import NativeLibrary, load_native
from tests.unit.server.model.tiny import BLOCK_SIZE, WINDOW, TinyEngine, make_adapter, tiny_model

NUM_TOKENS = 4
# Inputs rounded to 127 steps of their block, in three layers, at logits with a deviation of 0.6.
LOGITS_ATOL = 0.08
PROMPT = [20 + (13 * i) % 200 for i in range(9)] + [7, *INVOCATION, 31, 5, 77]
KINDS = ("lora", "dora", "ia3", "saved_head", "prompt_tuning", "alora")
STACKS: list[Stack] = [
    [],
    *([(kind, 1.0)] for kind in KINDS),
    [("dora", 0.5), ("lora", -0.7), ("prompt_tuning", 1.0)],
]


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    found = load_native()
    if found is None or not found.instruction_set.multiplies_bytes:
        pytest.skip("int8 arithmetic needs AVX512-VNNI")
    return found


def four_bit(model: Any) -> Any:
    """A copy whose linears hold 4-bit codes, as a loaded base does; the head stays as it is."""
    copied = copy.deepcopy(model)
    layers = import_bitsandbytes().nn
    head = copied.get_output_embeddings()
    for name, module in list(copied.named_modules()):
        if not isinstance(module, nn.Linear) or module is head:
            continue
        linear = layers.Linear4bit(
            module.in_features, module.out_features, bias=False, quant_type="nf4",
            compute_dtype=torch.float32,
        )  # fmt: skip
        weight = module.weight.data.to(torch.bfloat16)
        linear.weight = layers.Params4bit(weight, requires_grad=False, quant_type="nf4")
        linear.bias = module.bias
        copied.set_submodule(name, linear.to("cpu"))
    prepare_for_training(copied)  # the codes stay in the layout that packing reads
    return copied


def engine_over(tiny: TinyEngine, folder: Path) -> KindsEngine:
    settings = SchedulerSettings(
        max_num_sequences=32,
        max_batch_tokens=64,
        max_model_len=WINDOW,
        block_size=BLOCK_SIZE,
        num_blocks=256,
        num_adapter_pages=96,
    )
    engine = KindsEngine(tiny.runner, tiny.loader, settings)
    for kind in KINDS:
        engine.load(kind, folder / kind)
    return engine


def test_every_kind_is_close_to_exact_inputs_and_bitwise_the_same_in_any_batch(
    library: NativeLibrary, tmp_path: Path
) -> None:
    plain = tiny_model("llama").to(torch.bfloat16).float()
    for seed, kind in enumerate(KINDS):
        make_kind(kind, copy.deepcopy(plain), tmp_path / kind, seed=seed)
    requests = [(PROMPT, stack) for stack in STACKS]
    exact = engine_over(TinyEngine(four_bit(plain), num_pages=96, library=library), tmp_path)
    wanted = exact.generate(requests, NUM_TOKENS)
    follow = [answer.token_ids for answer in wanted]
    tiny = TinyEngine(four_bit(plain), num_pages=96, library=library, arithmetic="int8")
    rounded = engine_over(tiny, tmp_path)
    mixed = rounded.generate(requests, NUM_TOKENS, follow=follow)
    for stack, a, b in zip(STACKS, mixed, wanted, strict=True):
        difference = float((a.logits - b.logits).abs().max())
        assert 0.0 < difference < LOGITS_ATOL, (stack, difference)
    for index, request in enumerate(requests):
        rounded.forget_cache()
        (alone,) = rounded.generate([request], NUM_TOKENS, follow=[follow[index]])
        assert torch.equal(alone.logits, mixed[index].logits), STACKS[index]


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_chunks_of_any_size_and_neighbours_change_no_bit(
    name: str, library: NativeLibrary, tmp_path: Path
) -> None:
    model = tiny_model(name).to(torch.bfloat16).float()
    make_adapter(copy.deepcopy(model), tmp_path / "a", rank=12, seed=1)
    engine = TinyEngine(four_bit(model), library=library, arithmetic="int8")
    pages = engine.load(tmp_path / "a", 12)
    requests = [(PROMPT[: 3 + i], [(pages, 0.5)] if i % 2 else []) for i in range(7)]
    _, together = engine.generate(requests, NUM_TOKENS)
    for index, request in enumerate(requests):
        for chunk in (2, 32):
            _, alone = engine.generate([request], NUM_TOKENS, chunk=chunk)
            assert torch.equal(together[index], alone[0])


@pytest.mark.parametrize("name", ["gpt-neox", "gemma2"])
def test_the_generic_way_over_native_kernels_has_it_too(name: str, library: NativeLibrary) -> None:
    model = tiny_model(name).to(torch.bfloat16).float()
    results, follow = [], None
    for arithmetic in ("bfloat16", "int8"):
        engine = TinyEngine(
            four_bit(model), library=library, is_generic=True, arithmetic=arithmetic
        )  # fmt: skip
        tokens, logits = engine.generate([(PROMPT, [])], NUM_TOKENS, follow=follow)
        follow = follow or tokens
        results.append(logits[0].float())
    difference = float((results[1] - results[0]).abs().max())
    assert 0.0 < difference < LOGITS_ATOL
