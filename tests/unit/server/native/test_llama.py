"""The whole native step against transformers' own models on the same weights."""

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from server.native.llama import NativeLlama, NativeStepError
from server.native.ops import NativeBank, NativeOps, PagedBatch
from server.native.weights import pack_int8, row_major_bf16
from tests.unit.server.native.tiny import (
    ARCHITECTURES,
    VOCAB,
    RowStep,
    TinyNative,
    explicit_delta,
    random_bank,
    run_step,
)

BLOCKS_A = [5, 1, 9, 2, 30, 31, 7]
BLOCKS_B = [8, 3, 20]
TOLERANCE = 0.02
"""Largest difference over the largest logit: activations are rounded to bf16 (1/256) where the
oracle keeps fp32, and errors of two layers add up. A wrong step is off by 0.1 and more."""


def _tokens(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (count,), generator=generator).tolist()


TOKENS_A, TOKENS_B = _tokens(23, 1), _tokens(11, 2)


def _serve_both(
    llama: NativeLlama, bank: NativeBank | None = None,
    work_a: Sequence[tuple[int, float]] = (), work_b: Sequence[tuple[int, float]] = (),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """All logits of two sequences through mixed steps of prefill chunks and decodes."""

    def row_a(begin: int, end: int) -> RowStep:
        return RowStep(TOKENS_A[begin:end], begin, BLOCKS_A, work_a)

    def row_b(begin: int, end: int) -> RowStep:
        return RowStep(TOKENS_B[begin:end], begin, BLOCKS_B, work_b)

    a, b = [run_step(llama, [row_a(0, 9)], bank)], []
    out = run_step(llama, [row_b(0, 1), row_a(9, 14)], bank)
    b.append(out[:1])
    a.append(out[1:])
    out = run_step(llama, [row_a(14, 15), row_b(1, 10)], bank)
    a.append(out[:1])
    b.append(out[1:])
    out = run_step(llama, [row_a(15, 16), row_b(10, 11)], bank)
    a.append(out[:1])
    b.append(out[1:])
    a.extend(run_step(llama, [row_a(i, i + 1)], bank) for i in range(16, len(TOKENS_A)))
    return torch.cat(a), torch.cat(b)


def _error(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_matches_transformers_over_mixed_steps(ops: NativeOps, name: str) -> None:
    tiny = TinyNative.build(name, ops.library, ops)
    a, b = _serve_both(tiny.llama)
    assert _error(a, tiny.oracle_logits(TOKENS_A)) < TOLERANCE
    assert _error(b, tiny.oracle_logits(TOKENS_B)) < TOLERANCE
    tiny.llama.close()


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "gemma2"])
def test_adapters_match_explicit_deltas(ops: NativeOps, name: str) -> None:
    tiny = TinyNative.build(name, ops.library, ops)
    features = [(m.in_features, m.out_features) for m in tiny.modules]
    bank = random_bank(features, num_pages=5, absent=0.2)
    work_a, work_b = [(0, 1.0), (1, 1.0)], [(3, 0.7), (4, -0.3), (2, 0.5)]
    a, b = _serve_both(tiny.llama, bank, work_a, work_b)
    plain = tiny.oracle_logits(TOKENS_A)
    for logits, tokens, work in ((a, TOKENS_A, work_a), (b, TOKENS_B, work_b)):
        originals = [m.weight.data.clone() for m in tiny.modules]
        for index, module in enumerate(tiny.modules):
            module.weight.data += explicit_delta(bank, index, work)
        assert _error(logits, tiny.oracle_logits(tokens)) < TOLERANCE
        for module, original in zip(tiny.modules, originals, strict=True):
            module.weight.data.copy_(original)
    assert _error(a, plain) > 5 * TOLERANCE, (
        "the adapter must matter for this test to mean anything"
    )
    tiny.llama.close()


@pytest.fixture(scope="module")
def tiny(ops: NativeOps) -> Iterator[TinyNative]:
    built = TinyNative.build("qwen3", ops.library, ops)
    yield built
    built.llama.close()


def test_logits_are_bitwise_the_same_in_any_batch_and_chunking(tiny: TinyNative) -> None:
    features = [(m.in_features, m.out_features) for m in tiny.modules]
    bank = random_bank(features, num_pages=4)
    tokens = _tokens(300, 5)
    work = [(0, 1.0), (2, 0.5)]
    mine = list(range(0, 60))
    other = [60, 61, 62, 63]

    def row(begin: int, end: int) -> RowStep:
        return RowStep(tokens[begin:end], begin, mine[:], work)

    rows_at_once = [RowStep(tokens[:240], 0, mine, work)]
    whole = run_step(tiny.llama, rows_at_once, bank)
    for cuts in ([0, 1, 2, 3, 20, 33, 240], [0, 130, 131, 239, 240]):
        parts = []
        for begin, end in itertools.pairwise(cuts):
            neighbour = RowStep(tokens[: 5 + begin % 7], 0, other, [(1, 1.0)])
            out = run_step(tiny.llama, [neighbour, row(begin, end)], bank)
            parts.append(out[len(neighbour.token_ids) :])
        assert torch.equal(torch.cat(parts), whole), cuts
    for start in (0, 1, 15, 16, 100, 239):
        alone = run_step(tiny.llama, [row(start, start + 1)], bank)
        assert torch.equal(alone[0], whole[start])


def test_the_number_of_threads_changes_no_bit(ops: NativeOps) -> None:
    single = NativeOps(ops.library, num_threads=1)
    results = []
    for pool in (ops, single):
        tiny = TinyNative.build("llama", ops.library, pool)
        bank = random_bank([(m.in_features, m.out_features) for m in tiny.modules], num_pages=2)
        results.append(_serve_both(tiny.llama, bank, [(0, 1.0)], [(1, 2.0)]))
        tiny.llama.close()
    single.close()
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_int8_head_with_a_row_major_embedding(ops: NativeOps, tiny: TinyNative) -> None:
    layers, embedding, _, final_norm, keys, values = tiny.llama._owned
    matrix = tiny.oracle.lm_head.weight.data
    llama = NativeLlama(
        ops, tiny.llama.shape, layers, row_major_bf16(matrix), pack_int8(ops.library, matrix),
        final_norm, keys, values, max_tokens=64,
    )  # fmt: skip
    step = [RowStep(TOKENS_B, 0, BLOCKS_B)]
    exact, rounded = run_step(tiny.llama, step), run_step(llama, step)
    assert 0.0 < _error(rounded, exact) < TOLERANCE
    assert embedding.size_bytes > 0
    llama.close()


def test_only_the_asked_tokens_get_logits(tiny: TinyNative) -> None:
    everything = run_step(tiny.llama, [RowStep(TOKENS_B, 0, BLOCKS_B)])
    batch = PagedBatch(
        torch.tensor([0, 11], dtype=torch.int32),
        torch.tensor([11], dtype=torch.int32),
        torch.tensor([BLOCKS_B], dtype=torch.int32),
    )
    tokens = torch.tensor(TOKENS_B, dtype=torch.int32)
    some = tiny.llama.step(tokens, batch, torch.tensor([10, 3], dtype=torch.int32))
    assert torch.equal(some, everything[[10, 3]])
    none = tiny.llama.step(tokens, batch, torch.empty(0, dtype=torch.int32))
    assert none.shape == (0, VOCAB)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (RowStep([VOCAB], 0, [0]), "token id"),
        (RowStep([1, 2, 3, 4, 5], 0, [0]), "block"),
        (RowStep([1], 0, [64]), "block id"),
        (RowStep([1], 640, list(range(64)) * 3), "rotary table"),
        (RowStep([1] * 513, 0, list(range(64)) * 3), "max_tokens"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(tiny: TinyNative, row: RowStep, message: str) -> None:
    with pytest.raises(NativeStepError, match=message):
        run_step(tiny.llama, [row])


def test_a_page_outside_the_bank_is_refused(tiny: TinyNative) -> None:
    bank = random_bank([(m.in_features, m.out_features) for m in tiny.modules], num_pages=2)
    with pytest.raises(NativeStepError, match="page"):
        run_step(tiny.llama, [RowStep([1], 0, [0], [(2, 1.0)])], bank)


def test_phases_and_workspace_are_reported(tiny: TinyNative) -> None:
    run_step(tiny.llama, [RowStep([1], 0, [0])])
    seconds = tiny.llama.phase_seconds()
    assert seconds["qkv"] > 0.0
    assert seconds["head"] > 0.0
    assert tiny.llama.workspace_bytes > 512 * 64 * 4
