"""The rows of a failed step, run apart: who fails, who goes on, and how many steps it takes."""

import pytest

from server.core.batch import ScheduledBatch, ScheduledRow, StepOutput
from server.core.request import SamplingParams
from server.engine.trial import Trial, run_apart

PARAMS = SamplingParams(max_tokens=1)


def batch(num_rows: int) -> ScheduledBatch:
    rows = (ScheduledRow(i, (i,), 0, (0,), (), PARAMS, True, 0, 0) for i in range(num_rows))
    return ScheduledBatch(tuple(rows))


def tried(num_rows: int, errors: dict[int, Exception]) -> tuple[Trial, int]:
    """What came of it, and the number of steps."""
    num_steps = 0

    def execute(part: ScheduledBatch) -> StepOutput:
        nonlocal num_steps
        num_steps += 1
        for row in part.rows:
            if row.sequence_id in errors:
                raise errors[row.sequence_id]
        return StepOutput({row.sequence_id: 1 for row in part.rows})

    return run_apart(execute, batch(num_rows)), num_steps


@pytest.mark.parametrize("guilty", [[0], [6], [2, 3], [0, 3, 6], list(range(7))])
def test_each_row_either_runs_once_or_is_guilty(guilty: list[int]) -> None:
    trial, num_steps = tried(7, {i: ValueError("no such token") for i in guilty})
    assert [row.sequence_id for row, _ in trial.guilty] == guilty
    ran = [row.sequence_id for part, _ in trial.outputs for row in part.rows]
    assert ran == [i for i in range(7) if i not in guilty]
    assert all(set(output.token_ids) == {r.sequence_id for r in part.rows}
               for part, output in trial.outputs)  # fmt: skip
    assert not trial.unfinished
    assert num_steps <= 14


def test_one_guilty_row_among_many_takes_few_steps() -> None:
    _, num_steps = tried(64, {37: ValueError("no such token")})
    assert num_steps <= 12


def test_a_single_row_is_not_tried_again() -> None:
    trial, num_steps = tried(1, {0: ValueError("no such token")})
    assert (trial, num_steps) == (Trial(), 0)


def test_a_part_without_memory_is_nobodys_guilt() -> None:
    trial, _ = tried(4, {1: MemoryError()})
    assert not trial.guilty
    assert [len(part.rows) for part in trial.unfinished] == [2]
