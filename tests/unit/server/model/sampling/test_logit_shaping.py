"""The rules of a request on one row of logits, against definitions written out token by token."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.batch import ScheduledRow
from server.core.logit_rules import LogitRules
from server.core.request import SamplingParams
from server.model.sampling.logit_shaping import shape_logits

V = 12
tokens = st.lists(st.integers(0, V - 1), max_size=20)
logits = st.lists(st.floats(-20, 20, width=32, allow_subnormal=False), min_size=V, max_size=V).map(
    lambda values: np.asarray(values, np.float32)
)


def row(
    rules: LogitRules | None, prompt: list[int], generated: list[int], **sampling: Any
) -> ScheduledRow:
    params = SamplingParams(max_tokens=50, rules=rules, **sampling)
    history = [*prompt, *generated]
    return ScheduledRow(0, (0,), 0, (0,), (), params, True, 1, len(generated), history=history)


@given(
    logits=logits,
    prompt=st.lists(st.integers(0, V - 1), min_size=1, max_size=20),
    generated=tokens,
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    repetition=st.floats(0.1, 3),
    bias=st.dictionaries(st.integers(0, V - 1), st.floats(-100, 100), max_size=4),
)
def test_penalties_are_the_plain_definition(
    logits: Any,
    prompt: list[int],
    generated: list[int],
    presence: float,
    frequency: float,
    repetition: float,
    bias: dict[int, float],
) -> None:
    rules = LogitRules(presence, frequency, repetition, tuple(bias.items()))
    before = logits.copy()
    got = shape_logits(logits, row(rules, prompt, generated), None)
    counts, seen = Counter(generated), {*prompt, *generated}
    for token in range(V):
        want = float(logits[token]) + bias.get(token, 0.0)
        if token in seen:
            want = want / repetition if want > 0 else want * repetition
        if counts[token]:
            want -= frequency * counts[token] + presence
        assert got[token] == pytest.approx(want, rel=1e-4, abs=1e-4)
    assert (logits == before).all(), "the model's own logits are still needed"


@given(logits=logits, allowed=st.sets(st.integers(0, V - 1), min_size=1), generated=tokens)
def test_only_allowed_tokens_are_left(logits: Any, allowed: set[int], generated: list[int]) -> None:
    rules = LogitRules(allowed_token_ids=tuple(allowed))
    got = shape_logits(logits, row(rules, [1], generated), None)
    assert set(np.flatnonzero(got > -np.inf)) == allowed


@given(
    logits=logits,
    banned=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), max_size=3),
    generated=st.lists(st.integers(0, 2), max_size=6),
)
def test_a_banned_sequence_can_not_be_completed(
    logits: Any, banned: list[list[int]], generated: list[int]
) -> None:
    rules = LogitRules(banned_sequences=tuple(map(tuple, banned)))
    got = shape_logits(logits, row(rules, [0, 1, 2, 0, 1, 2], generated), None)
    for token in range(V):
        after = [*generated, token]
        is_banned = any(after[-len(words) :] == words for words in banned)
        assert (got[token] == -np.inf) == is_banned


def test_end_tokens_wait_for_the_minimum() -> None:
    rules = LogitRules(withheld_token_ids=(3, 5))
    zeros = np.zeros(V, np.float32)
    early = shape_logits(zeros, row(rules, [1], [2], min_tokens=2), None)
    late = shape_logits(zeros, row(rules, [1], [2, 2], min_tokens=2), None)
    assert list(np.flatnonzero(early == -np.inf)) == [3, 5]
    assert np.isfinite(late).all()


@given(logits=logits, bits=st.integers(0, 2**V - 1))
def test_the_grammars_mask_is_lowest_bit_first(logits: Any, bits: int) -> None:
    got = shape_logits(logits, row(None, [1], []), bits.to_bytes(2, "little"))
    for token in range(V):
        assert (got[token] > -np.inf) == bool(bits >> token & 1)


def test_tokens_beyond_the_mask_are_never_allowed() -> None:
    got = shape_logits(np.zeros(V, np.float32), row(None, [1], []), b"\xff")
    assert list(np.flatnonzero(got > -np.inf)) == list(range(8))


@given(
    logits=logits,
    bias=st.lists(st.tuples(st.integers(0, V - 1), st.floats(-100, 100)), max_size=30),
)
def test_a_bias_is_added_entry_by_entry_to_the_bit(
    logits: Any, bias: list[tuple[int, float]]
) -> None:
    got = shape_logits(logits, row(LogitRules(logit_bias=tuple(bias)), [0], [1]), None)
    want = logits.copy()
    for token_id, addend in bias:
        want[token_id] += np.float32(addend)
    assert got.tobytes() == want.tobytes()


def test_the_arrays_of_a_bias_are_built_once_for_all_steps_and_choices() -> None:
    rules = LogitRules(logit_bias=((1, 2.0), (3, 4.0)), allowed_token_ids=(1, 3))
    assert rules.bias_ids is rules.bias_ids
    assert rules.biases is rules.biases
    assert rules.allowed_ids is rules.allowed_ids
