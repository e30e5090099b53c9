"""Records survive a kill in the middle of a line; fairness is Jain's."""

from pathlib import Path

import pytest

from loadtests.scenarios.records import Outcome, Record, count_outcomes, jain_index, read_records


def record(outcome: Outcome, note: str = "") -> Record:
    return Record("SteadyUser", "sql", 12.5, outcome, 200, 0.5, 3, 0.1, (0.2, 0.2), note)


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    whole = [record(Outcome.RIGHT), record(Outcome.WRONG, 'said "x"\n')]
    file = tmp_path / "records.jsonl"
    text = "".join(r.to_line() for r in whole)
    file.write_text(text + record(Outcome.LEFT).to_line()[:-10])
    assert list(read_records(file)) == whole
    assert count_outcomes(whole) == {Outcome.RIGHT: 1, Outcome.WRONG: 1}


@pytest.mark.parametrize(
    ("values", "index"),
    [((5, 5, 5), 1.0), ((1, 0, 0, 0), 0.25), ((), 1.0), ((0, 0), 1.0), ((2, 4), 0.9)],
)
def test_jain(values: tuple[float, ...], index: float) -> None:
    assert jain_index(values) == pytest.approx(index)
