"""Thin factors of a matrix, against numpy's own singular values."""

import pytest
import torch

from adapters.errors import FoldError, InvalidNameError
from adapters.folding.low_rank import LowRank, relative_error
from adapters.folding.order import FoldSpec


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
def test_the_best_of_every_rank(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(matrix.double())
    low = LowRank.of(matrix, 64)
    for rank in (1, 4, min(shape)):
        best = float((values[rank:].square().sum() / values.square().sum()).sqrt())
        assert low.errors[rank - 1] == pytest.approx(best, abs=1e-6)
        assert relative_error(matrix, *low.factors(rank)) == pytest.approx(best, abs=1e-6)


def test_ranks_that_a_matrix_does_not_have_are_zero() -> None:
    matrix = torch.outer(torch.arange(4.0), torch.arange(1.0, 7.0))
    low = LowRank.of(matrix, 3)
    assert low.errors[0] < 1e-6
    a, b = LowRank.of(matrix, 64).factors(8)
    assert (a.shape, b.shape) == ((8, 6), (4, 8))
    torch.testing.assert_close(b @ a, matrix)
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()


def test_the_rank_is_the_smallest_that_serves_every_module() -> None:
    errors = [[0.5, 0.009, 0.0], [0.4, 0.02, 0.005]]
    assert FoldSpec("a", "base").choose_rank(errors) == 3
    assert FoldSpec("a", "base", max_error=0.001).choose_rank(errors) == 3
    assert FoldSpec("a", "base", rank=2).choose_rank(errors) == 2
    assert FoldSpec("a", "base").choose_rank([[0.5] * 100]) == 64, "what a server takes at most"


@pytest.mark.parametrize("options", [{"rank": 0}, {"max_error": 0.0}, {"max_error": 1.5}])
def test_orders_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(FoldError):
        FoldSpec("a", "base", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidNameError):
        FoldSpec("../a", "base")
