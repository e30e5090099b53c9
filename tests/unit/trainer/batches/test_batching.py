"""Batch plans: every row once an epoch, within the token budget, the same for the same seed."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.batches.batching import group_by_length, padding_share, plan_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=120)


@given(LENGTHS, st.integers(1, 3), st.integers(8, 1024), st.integers(0, 9))
def test_each_epoch_has_each_row_once_within_the_budget(
    lengths: list[int], epochs: int, batch_tokens: int, seed: int
) -> None:
    plan = plan_batches(lengths, epochs=epochs, batch_tokens=batch_tokens, seed=seed)
    assert len(plan.epoch_ends) == epochs
    assert plan.epoch_ends[-1] == len(plan.batches)
    start = 0
    for end in plan.epoch_ends:
        rows = [index for batch in plan.batches[start:end] for index in batch]
        assert sorted(rows) == list(range(len(lengths)))
        start = end
    for batch in plan.batches:
        padded = max(lengths[index] for index in batch) * len(batch)
        assert padded <= batch_tokens or len(batch) == 1


@given(LENGTHS, st.integers(0, 9))
def test_same_seed_same_plan(lengths: list[int], seed: int) -> None:
    plans = [plan_batches(lengths, epochs=2, batch_tokens=256, seed=seed) for _ in range(2)]
    assert plans[0] == plans[1]


def test_epochs_and_seeds_differ() -> None:
    lengths = [10 + index % 7 for index in range(200)]
    plan = plan_batches(lengths, epochs=2, batch_tokens=64, seed=0)
    middle = plan.epoch_ends[0]
    assert set(plan.batches[:middle]) != set(plan.batches[middle:])
    assert plan != plan_batches(lengths, epochs=2, batch_tokens=64, seed=1)


def test_little_padding_for_mixed_lengths() -> None:
    lengths = [20 + (index * 37) % 200 for index in range(400)]
    plan = plan_batches(lengths, epochs=1, batch_tokens=1024, seed=0)
    assert padding_share(lengths, plan.batches) < 0.12


def test_evaluation_groups_are_longest_first() -> None:
    batches = group_by_length([5, 9, 1, 9], 18)
    assert batches == [(1, 3), (0, 2)]
    assert padding_share([5, 9, 1, 9], batches) == 1 - 24 / 28
