"""Sorting a step's work into tiles and units."""

import numpy as np
import pytest
import torch

from server.model.kernels.work_plan import TILE_TOKENS, WorkPlan, WorkTables
from tests.kernels.steps import Row, make_step

ROWS: list[Row] = [
    (1, 9, [(0, 1.0), (5, 1.0)]),
    (1, 3, []),
    (1, 4, [(0, 1.0), (5, 1.0)]),
    (1, 2, [(0, 1.0), (5, 0.5)]),
    (17, 0, [(3, 1.0), (2, 0.25), (7, 1.0)]),
    (2, 5, [(0, 1.0), (5, 1.0)]),
]


def tiles(plan: WorkPlan) -> list[list[int]]:
    return [[token for token in tile if token >= 0] for tile in plan.tile_tokens.tolist()]


def test_tokens_with_the_same_work_share_a_tile() -> None:
    """Whichever rows they come from; another scale is other work, and no work is no tile."""
    plan = WorkPlan.for_step(make_step(ROWS))
    assert tiles(plan) == [[0, 2, 21, 22], [3], list(range(4, 20)), [20]]
    assert plan.unit_starts.tolist() == [0, 1, 2, 4, 6]
    assert plan.unit_tiles.tolist() == [0, 1, 2, 2, 3, 3]
    assert plan.unit_items.tolist() == [0, 4, 6, 8, 6, 8]
    assert plan.unit_ends.tolist() == [2, 6, 9, 9, 9, 9]
    assert plan.num_items == 11


def test_every_token_with_work_is_in_exactly_one_tile() -> None:
    generator = np.random.default_rng(0)
    lists = [[], [(1, 1.0)], [(2, 0.5), (1, 1.0), (4, 2.0)], [(3, -1.0)] * 7]
    for _ in range(50):
        picks = generator.integers(0, len(lists), 40)
        lengths = sorted(generator.integers(1, 40, 40).tolist())
        rows: list[Row] = [(n, 0, lists[p]) for n, p in zip(lengths, picks, strict=True)]
        plan = WorkPlan.for_step(make_step(rows))
        starts = np.concatenate(([0], np.cumsum(lengths)))
        work_of = {}
        for tile, tokens in enumerate(tiles(plan)):
            assert 0 < len(tokens) <= TILE_TOKENS
            for token in tokens:
                assert token not in work_of
                units = range(plan.unit_starts[tile], plan.unit_starts[tile + 1])
                assert all(plan.unit_tiles[unit] == tile for unit in units)
                work_of[token] = sum(
                    min(2, plan.unit_ends[unit] - plan.unit_items[unit]) for unit in units
                )
        expected = {
            token: len(lists[pick])
            for row, pick in enumerate(picks)
            for token in range(starts[row], starts[row + 1])
            if lists[pick]
        }
        assert work_of == expected


def test_tables_keep_their_place_and_pad_what_they_do_not_use() -> None:
    tables = WorkTables(6, 9, device="cpu")
    address = tables.unit_items.data_ptr()
    plan = WorkPlan.for_step(make_step(ROWS))
    tables.load(plan)
    assert tables.unit_items.data_ptr() == address
    assert tables.tile_tokens[:4].tolist() == plan.tile_tokens.tolist()
    assert (tables.tile_tokens[4:] == -1).all()
    assert tables.unit_starts.tolist() == [0, 1, 2, 4, 6, 6, 6]
    assert tables.unit_tiles.tolist() == [0, 1, 2, 2, 3, 3, -1, -1, -1]
    tables.load(WorkPlan.empty())
    assert not tables.unit_starts.any()
    assert torch.equal(tables.unit_tiles, torch.full((9,), -1, dtype=torch.int32))


def test_tables_refuse_a_plan_that_is_too_large() -> None:
    plan = WorkPlan.for_step(make_step(ROWS))
    for num_tiles, num_units in ((3, 9), (6, 5)):
        tables = WorkTables(num_tiles, num_units, device="cpu")
        assert not tables.fits(plan)
        with pytest.raises(AssertionError):
            tables.load(plan)
