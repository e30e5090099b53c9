"""The gate on stalls covers every route that takes work, and its verdicts are what they say."""

import pytest

from loadtests import stalls
from loadtests.stalls import Cell, Facts, Outcome, cells, routes_without_cell
from server.api.access.callers import Right
from server.api.access.rights import RIGHTS
from server.api.requests.messages import MAX_MESSAGES

CELL = Cell("x", "/tokenize", {})
FACTS = Facts("m", window=8192, vocabulary=49152)


def test_every_inference_route_has_a_cell() -> None:
    assert routes_without_cell(FACTS) == []


def test_a_new_route_without_a_cell_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "RIGHTS", {**RIGHTS, ("POST", "/v1/new"): Right.INFER})
    assert routes_without_cell(FACTS) == ["/v1/new"]


def test_the_bodies_follow_the_limits() -> None:
    by_name = {cell.name: cell for cell in cells(FACTS)}
    assert len(by_name["logit_bias, all, n=32"].body["logit_bias"]) == FACTS.vocabulary
    assert len(by_name["most messages"].body["messages"]) <= MAX_MESSAGES


@pytest.mark.parametrize(
    ("gap", "health", "expected"), [(90, 50, True), (260, 50, False), (90, 101, False)]
)
def test_verdicts(gap: float, health: float, expected: bool) -> None:
    assert Outcome(CELL, 200, 17.0, gap, health).is_within is expected


def test_the_ratio_to_the_idle_gap_counts_too() -> None:
    assert not Outcome(CELL, 200, 17.0, 171.0, 10.0).is_within
    assert Outcome(CELL, 200, 5.0, 160.0, 10.0).is_within


def test_a_legal_request_that_is_refused_is_a_breach() -> None:
    assert not Outcome(CELL, 429, 17.0, 20.0, 10.0).is_within
    assert Outcome(Cell("x", "/tokenize", {}, is_legal=False), 400, 17.0, 20.0, 10.0).is_within
