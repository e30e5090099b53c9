"""Log probabilities against torch's own log_softmax."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.batch import ScheduledRow
from server.core.request import SamplingParams
from server.model.sampling.logprobs import token_logprobs
from server.model.sampling.prompt_scores import split_scores
from server.model.sampling.sampler import sample


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=300),
    num_top=st.integers(0, 20),
    data=st.data(),
)
def test_they_are_the_log_softmax(values: list[float], num_top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(values) - 1))
    logits = np.asarray(values, np.float32)
    got = token_logprobs(logits, token, num_top)
    want = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)
    assert got.logprob == pytest.approx(float(want[token]), abs=1e-5)
    assert got.rank == 1 + int((logits > logits[token]).sum())
    order = sorted(range(len(values)), key=lambda i: (-logits[i], i))[:num_top]
    assert [i for i, _ in got.top] == order
    for i, logprob in got.top:
        assert logprob == pytest.approx(float(want[i]), abs=1e-5)


def row(sequence_id: int, **options: Any) -> ScheduledRow:
    sampling = SamplingParams(max_tokens=1, **options.pop("sampling", {}))
    values: dict[str, Any] = {
        "token_ids": (0,), "start": 0, "samples": True, "num_generated": 0, **options,
    }  # fmt: skip
    return ScheduledRow(sequence_id, block_ids=(0,), work=(), sampling=sampling, seed=1, **values)


def test_a_draw_tells_about_raw_logits_whatever_the_rules() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    plain = {"logprobs": 2, "temperature": 0.0}
    warm = {"logprobs": 2, "temperature": 1.7, "min_p": 0.9}
    for sampling in (plain, warm):
        draws = sample(logits, [row(0, sampling=sampling)])
        assert draws.token_ids == {0: 2}
        want = torch.log_softmax(logits[0], -1)
        assert draws.logprobs[0].logprob == pytest.approx(float(want[2]), abs=1e-6)
        assert [token for token, _ in draws.logprobs[0].top] == [2, 1]


def test_min_p_leaves_the_probable() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(400, 1)
    rows = [row(i, sampling={"min_p": 0.4}) for i in range(400)]
    assert set(sample(logits, rows).token_ids.values()) <= {0, 1}


def test_prompt_scores_belong_to_the_next_token() -> None:
    """Rows: one that scores in the middle of a prompt, a plain one, one that scores to its end."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3 + 1 + 3, 9, generator=generator)
    scoring = {"prompt_logprobs": 1}
    middle = row(
        1, token_ids=(4, 5, 6), start=2, samples=False, scores=True, sampling=scoring,
        history=[2, 3, 4, 5, 6, 7, 8],
    )  # fmt: skip
    plain = row(2, history=[1])
    last = row(
        3, token_ids=(1, 2, 3), scores=True, sampling=scoring, history=[1, 2, 3],
    )  # fmt: skip
    sampled, scores = split_scores(logits, [middle, plain, last])
    assert torch.equal(sampled, logits[[3, 6]])
    want = torch.log_softmax(logits, -1)
    assert [s.token_id for s in scores[1]] == [5, 6, 7]
    assert [s.token_id for s in scores[3]] == [2, 3]
    for index, score in enumerate((*scores[1], *scores[3])):
        line = index if index < 3 else index + 1
        assert score.logprob == pytest.approx(float(want[line, score.token_id]), abs=1e-5)
