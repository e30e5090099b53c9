"""The sampler against its definition."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from server.core.batch import ScheduledRow
from server.core.logit_rules import LogitRules
from server.core.request import SamplingParams
from server.model.sampling.sampler import _inverse_cdf, _nucleus, sample, uniform


def row(index: int, *, seed: int = 1, position: int = 0, **options: float) -> ScheduledRow:
    params = SamplingParams(max_tokens=1, **options)  # type: ignore[arg-type]
    return ScheduledRow(index, (0,), 0, (0,), (), params, True, seed, position)


def frequencies(logits: list[float], count: int, **options: float) -> dict[int, float]:
    rows = [row(i, seed=i, **options) for i in range(count)]
    draws = sample(torch.tensor([logits] * count), rows)
    assert not draws.failed
    return {token: n / count for token, n in Counter(draws.token_ids.values()).items()}


def test_frequencies_follow_the_softmax() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    got = frequencies(logits, 4000)
    for token, probability in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert got[token] == pytest.approx(probability, abs=0.03)


def test_temperature_sharpens() -> None:
    logits = [math.log(0.6), math.log(0.4)]
    assert frequencies(logits, 3000, temperature=0.5)[0] == pytest.approx(0.36 / 0.52, abs=0.03)


def test_top_k_and_top_p_cut_the_tail() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert set(frequencies(logits, 500, top_k=2)) == {0, 1}
    assert set(frequencies(logits, 500, top_p=0.79)) == {0, 1}
    assert set(frequencies(logits, 500, top_p=0.81)) == {0, 1, 2}
    assert set(frequencies(logits, 500, top_p=0.01)) == {0}
    assert set(frequencies(logits, 500, top_k=3, top_p=0.6)) == {0, 1}


def test_a_flat_nucleus_reaches_beyond_the_first_candidates() -> None:
    tokens = frequencies([0.0] * 4000, 300, top_p=0.99)
    assert max(tokens) > 1024


def test_the_draw_does_not_depend_on_the_neighbours() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    rows = [row(i, seed=100 + i, position=i, top_p=0.9) for i in range(8)]
    together = sample(logits, rows).token_ids
    for i in range(8):
        alone = sample(logits[i : i + 1], rows[i : i + 1]).token_ids
        assert alone[i] == together[i]


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999, 0.99999])
def test_the_nucleus_is_that_of_a_full_sort(top_p: float) -> None:
    rng = np.random.default_rng(3)
    for spread in (0.01, 1.0, 6.0):
        below = (rng.standard_normal(5000) * spread).astype(np.float32)
        below -= below.max()
        weights = np.exp(below)
        order = np.argsort(-below, kind="stable")
        cumulative = np.cumsum(weights[order], dtype=np.float64)
        mass = top_p * float(weights.sum(dtype=np.float64))
        expected = order[: int((cumulative < mass).sum()) + 1]
        assert np.array_equal(_nucleus(below, weights, mass), expected)


def test_the_inverse_of_the_cdf_is_exact() -> None:
    rng = np.random.default_rng(4)
    weights = rng.random(1000).astype(np.float32)
    cumulative = np.cumsum(weights, dtype=np.float64)
    for u in (0.0, 0.1, 0.5, 0.77, 0.999999):
        index = _inverse_cdf(weights, u)
        assert cumulative[index] > u * cumulative[-1] * (1 - 1e-9)
        assert index == 0 or cumulative[index - 1] <= u * cumulative[-1] * (1 + 1e-9)


def test_nan_fails_that_row_only() -> None:
    logits = torch.zeros(2, 4)
    logits[0, 1] = float("nan")
    draws = sample(logits, [row(0), row(1)])
    assert list(draws.token_ids) == [1]
    assert "isn't finite" in draws.failed[0]


def test_rules_that_raise_fail_that_row_only() -> None:
    beyond = LogitRules(logit_bias=((99, 1.0),))
    rows = [row(0, temperature=0.0), row(1, rules=beyond), row(2, temperature=0.0)]  # type: ignore[arg-type]
    draws = sample(torch.tensor([[0.0, 1.0, 0.5]] * 3), rows)
    assert draws.token_ids == {0: 1, 2: 1}
    assert list(draws.failed) == [1]


def test_uniform_numbers_are_uniform() -> None:
    values = [uniform(seed, index) for seed in range(50) for index in range(50)]
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.02)
    assert 0.0 <= min(values) < 0.01
    assert 0.99 < max(values) < 1.0
