"""Which rows go into which forward: batches by tokens, of rows of like length."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BATCHES_PER_WINDOW = 8
"""Rows are sorted by length only within a random window of so many batches, so that who shares a
batch changes from epoch to epoch while padding stays small."""


Fill = Callable[[Sequence[int], Sequence[int], int], list[tuple[int, ...]]]
"""(rows, longest first; all lengths; token budget) to batches."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Row indices of every forward of a whole run, in order; made once, so that resume is a skip.

    `epoch_ends` holds, for each epoch, the number of batches up to its end.
    """

    batches: tuple[tuple[int, ...], ...]
    epoch_ends: tuple[int, ...]


def plan_batches(
    lengths: Sequence[int], *, epochs: int, batch_tokens: int, seed: int, packing: bool = False
) -> BatchPlan:
    """Batches whose padded size stays within `batch_tokens`; a longer row has one for itself.

    With `packing` it is the sum of the rows that stays within it, rows being set where they fit.

    The same arguments give the same plan. Each row is in each epoch exactly once.
    """
    batches: list[tuple[int, ...]] = []
    epoch_ends: list[int] = []
    for epoch in range(epochs):
        generator = random.Random(f"{seed}:{epoch}")
        batches += _epoch(lengths, batch_tokens, generator, _fill if packing else _cut)
        epoch_ends.append(len(batches))
    return BatchPlan(tuple(batches), tuple(epoch_ends))


def group_by_length(lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, ...]]:
    """Row indices in batches, longest first: the order for evaluation, where memory peaks first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return _cut(order, lengths, batch_tokens)


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Part of all computed positions that is padding."""
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    real = sum(lengths[i] for batch in batches for i in batch)
    return 1 - real / padded if padded else 0.0


def _epoch(
    lengths: Sequence[int], batch_tokens: int, generator: random.Random, fill: Fill
) -> list[tuple[int, ...]]:
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[tuple[int, ...]] = []
    window: list[int] = []
    window_tokens = 0
    for index in order:
        window.append(index)
        window_tokens += lengths[index]
        if window_tokens >= BATCHES_PER_WINDOW * batch_tokens:
            found = _window(window, lengths, batch_tokens, fill)
            # The last sequence of a packed window is seldom full: its rows wait for company.
            window = list(found.pop()) if fill is _fill else []
            window_tokens = sum(lengths[i] for i in window)
            batches += found
    batches += _window(window, lengths, batch_tokens, fill)
    generator.shuffle(batches)
    return batches


def _window(
    window: Sequence[int], lengths: Sequence[int], batch_tokens: int, fill: Fill
) -> list[tuple[int, ...]]:
    # `sorted` is stable: rows of equal length keep their random order.
    return fill(sorted(window, key=lambda i: -lengths[i]), lengths, batch_tokens)


def _cut(order: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, ...]]:
    """Cut rows in descending length where one more would pass the budget."""
    batches: list[tuple[int, ...]] = []
    current: list[int] = []
    for index in order:
        if current and lengths[current[0]] * (len(current) + 1) > batch_tokens:
            batches.append(tuple(current))
            current = []
        current.append(index)
    if current:
        batches.append(tuple(current))
    return batches


def _fill(order: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, ...]]:
    """Rows, longest first, each into the first sequence that still has room (first fit)."""
    sequences: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = lengths[index]
        place = next((n for n, free in enumerate(room) if free >= length), None)
        if place is None:
            sequences.append([index])
            room.append(batch_tokens - length)
        else:
            sequences[place].append(index)
            room[place] -= length
    return [tuple(sequence) for sequence in sequences]
