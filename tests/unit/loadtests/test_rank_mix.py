"""The pages of each kind of batch, and the arithmetic of bytes."""

import itertools

import pytest

from loadtests.harness.memory_bandwidth import read_bandwidth
from loadtests.rank_mix import MIX, MixResult, Traffic, batch_pages, expected_ms


def test_rows_of_a_batch_share_no_page_and_have_those_of_their_rank() -> None:
    kinds = batch_pages(7)
    assert [len(pages) for pages in kinds["rank 64"]] == [8] * 7
    assert [len(pages) for pages in kinds[MIX]] == [1, 2, 8, 1, 2, 8, 1]
    assert kinds["no adapters"] == [()] * 7
    for rows in kinds.values():
        pages = list(itertools.chain.from_iterable(rows))
        assert len(set(pages)) == len(pages)


def test_the_bank_is_filled_without_holes() -> None:
    kinds = batch_pages(4)
    used = {page for rows in kinds.values() for pages in rows for page in pages}
    assert used == set(range(4 * (1 + 2 + 8)))


def test_bytes_of_a_step() -> None:
    traffic = Traffic(weights=1000, page=10, token_kv=2)
    assert traffic.step_bytes(num_pages=3, num_rows=4, context=5) == 1000 + 30 + 40


def test_expected_time_lies_on_the_line_through_the_single_ranks() -> None:
    def result(label: str, num_pages: int, moved: int, step_ms: float) -> MixResult:
        return MixResult(label, num_pages, moved, moved, step_ms)

    results = [
        result("no adapters", 0, 50, 0.5),  # takes another path: not part of the line
        result("rank 8", 1, 100, 11.0),
        result("rank 16", 2, 200, 21.0),
        result("rank 64", 8, 800, 81.0),
        result(MIX, 4, 400, 99.0),
    ]
    assert expected_ms(results, 400) == pytest.approx(41.0)
    assert results[1].bytes_per_second == pytest.approx(100 / 0.011)


def test_memory_is_read_at_some_speed() -> None:
    assert read_bandwidth(1, rounds=1) > 0
