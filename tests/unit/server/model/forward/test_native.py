"""The native way against the generic one, for every architecture it claims."""

import copy
from pathlib import Path

import pytest
import torch

from server.model.forward.native import is_native_architecture
from server.native.build import NativeLibrary, load_native
from tests.unit.server.model.tiny import CONFIGS, TinyEngine, make_adapter, tiny_model

NATIVE = [name for name in CONFIGS if is_native_architecture(CONFIGS[name]())]
NUM_TOKENS = 10
# bfloat16 inputs and KV against float32 throughout, at logits with a standard deviation of 0.6.
LOGITS_ATOL = 0.06
PROMPTS = [[5 + (7 * i * n) % 240 for i in range(1, n + 1)] for n in (20, 9, 3)]


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    found = load_native()
    if found is None:
        pytest.skip("no compiler or no AVX2 here; the server then uses the reference backend")
    return found


def test_the_llama_family_is_native() -> None:
    families = {"llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "gemma2", "gemma3", "glm"}
    assert families <= {name.partition("-")[0] for name in NATIVE}


@pytest.mark.parametrize("name", NATIVE)
def test_native_logits_equal_generic_logits(
    name: str, library: NativeLibrary, tmp_path: Path
) -> None:
    """Mixed batch of base, adapter and stack; both ways continue with the same tokens."""
    model = tiny_model(name).to(torch.bfloat16).float()
    make_adapter(copy.deepcopy(model), tmp_path / "a", rank=4, seed=1)
    make_adapter(copy.deepcopy(model), tmp_path / "b", rank=12, seed=2)
    native = TinyEngine(copy.deepcopy(model), library=library)
    generic = TinyEngine(model)
    results = []
    follow: list[list[int]] | None = None
    for engine in (generic, native):
        a, b = engine.load(tmp_path / "a", 4), engine.load(tmp_path / "b", 12)
        stacks = [[], [(a, 1.0)], [(a, 0.7), (b, -0.3)]]
        requests = [(prompt, stack) for prompt in PROMPTS for stack in stacks]
        tokens, logits = engine.generate(requests, NUM_TOKENS, follow=follow)
        follow = follow or tokens
        results.append(torch.stack(logits))
    torch.testing.assert_close(results[1], results[0], atol=LOGITS_ATOL, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "bloom", "gemma2"])
def test_native_kernels_behind_the_generic_way(
    name: str, library: NativeLibrary, tmp_path: Path
) -> None:
    """Architectures without a native step still get native linears, adapters and attention."""
    model = tiny_model(name).to(torch.bfloat16).float()
    make_adapter(copy.deepcopy(model), tmp_path / "a", rank=12, seed=1)
    engines = (
        TinyEngine(copy.deepcopy(model)),
        TinyEngine(copy.deepcopy(model), library=library, is_generic=True),
    )
    results, follow = [], None
    for engine in engines:
        pages = engine.load(tmp_path / "a", 12)
        requests = [(prompt, stack) for prompt in PROMPTS for stack in ([], [(pages, 0.7)])]
        tokens, logits = engine.generate(requests, NUM_TOKENS, follow=follow)
        follow = follow or tokens
        results.append(torch.stack(logits).float())
    torch.testing.assert_close(results[1], results[0], atol=2 * LOGITS_ATOL, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral-sliding"])
def test_logits_are_bitwise_the_same_alone_and_in_any_batch(
    name: str, library: NativeLibrary, tmp_path: Path
) -> None:
    model = tiny_model(name)
    make_adapter(copy.deepcopy(model), tmp_path / "a", rank=8, seed=1)
    make_adapter(copy.deepcopy(model), tmp_path / "b", rank=20, seed=2)
    engine = TinyEngine(model, library=library)
    a, b = engine.load(tmp_path / "a", 8), engine.load(tmp_path / "b", 20)
    stacks = [[], [(a, 1.0)], [(b, 0.5)], [(a, 0.7), (b, 0.3)]]
    requests = [(PROMPTS[i % 3], stacks[i % 4]) for i in range(10)]
    _, together = engine.generate(requests, NUM_TOKENS)
    for index, request in enumerate(requests):
        for chunk in (3, 32):
            _, alone = engine.generate([request], NUM_TOKENS, chunk=chunk)
            assert torch.equal(together[index], alone[0])
