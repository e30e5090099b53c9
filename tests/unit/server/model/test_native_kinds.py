"""Every kind of adapter on the native way: against the generic way, and bitwise alone or mixed."""

import copy
from pathlib import Path

import pytest
import torch

from loadtests.fixtures.kinds_engine import KindsEngine, Stack
from loadtests.fixtures.kinds_factory import INVOCATION, KINDS, make_kind
from server.core.settings import SchedulerSettings
from server.native.build import NativeLibrary, load_native
from tests.unit.server.model.tiny import BLOCK_SIZE, WINDOW, TinyEngine, tiny_model

NUM_TOKENS = 4
LOGITS_ATOL = 0.08  # bfloat16 inputs, KV and adapters against float32 throughout
PROMPT = [20 + (13 * i) % 200 for i in range(9)] + [7, *INVOCATION, 31, 5, 77]
STACKS: list[Stack] = [
    [],
    *([(kind, 1.0)] for kind in KINDS),
    [("dora", 0.5), ("lora", -0.7), ("prompt_tuning", 1.0)],
    [("ia3", 1.0), ("rslora", 1.5), ("saved_head", 0.5), ("alora", 1.0)],
]


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    found = load_native()
    if found is None:
        pytest.skip("no compiler or no AVX2 here; the server then uses the reference backend")
    return found


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


def make_all(name: str, folder: Path) -> object:
    model = tiny_model(name).to(torch.bfloat16).float()
    for seed, kind in enumerate(KINDS):
        make_kind(kind, copy.deepcopy(model), folder / kind, seed=seed)
    return model


@pytest.mark.parametrize("name", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_native_equals_generic_and_alone_equals_mixed_bitwise(
    name: str, library: NativeLibrary, tmp_path: Path
) -> None:
    """gemma2 scales its embeddings and caps its logits; both ways continue with the same tokens."""
    model = make_all(name, tmp_path)
    requests = [(PROMPT, stack) for stack in STACKS]
    generic = engine_over(TinyEngine(copy.deepcopy(model), num_pages=96), tmp_path)
    wanted = generic.generate(requests, NUM_TOKENS)
    native = engine_over(TinyEngine(model, num_pages=96, library=library), tmp_path)
    follow = [answer.token_ids for answer in wanted]
    mixed = native.generate(requests, NUM_TOKENS, follow=follow)
    worst = {
        str(stack): round(float((a.logits - b.logits).abs().max()), 4)
        for stack, a, b in zip(STACKS, mixed, wanted, strict=True)
    }
    assert max(worst.values()) < LOGITS_ATOL, worst
    for index, request in enumerate(requests):
        native.forget_cache()
        (alone,) = native.generate([request], NUM_TOKENS, follow=[follow[index]])
        assert torch.equal(alone.logits, mixed[index].logits), STACKS[index]
