"""Finds the rows that make a step fail, by running its rows again in smaller and smaller steps.

Nothing of a failed step is recorded, and computing a row again writes the same keys and values to
the same places, so rows may run as often as it takes; and a row's result doesn't depend on its
neighbours (see docs/adr/0003), so those that run apart go on bit for bit as they would have.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from server.core.batch import ScheduledBatch, ScheduledRow, StepOutput
from server.engine.out_of_memory import is_out_of_memory


@dataclass(slots=True)
class Trial:
    """What came of the rows of a failed step.

    `outputs` are the parts that ran, with their results; `guilty` the rows that failed all alone,
    with their errors; `unfinished` the parts that had no memory, which the next step may try again.
    """

    outputs: list[tuple[ScheduledBatch, StepOutput]] = field(default_factory=list)
    guilty: list[tuple[ScheduledRow, Exception]] = field(default_factory=list)
    unfinished: list[ScheduledBatch] = field(default_factory=list)


def run_apart(execute: Callable[[ScheduledBatch], StepOutput], failed: ScheduledBatch) -> Trial:
    """Run the halves of `failed`, and those of each half that fails, down to single rows.

    Takes at most twice as many steps as there are rows. The order of the rows is kept. A single row
    isn't tried again.
    """
    trial = Trial()
    parts = _halves(failed) if len(failed.rows) > 1 else []
    while parts:
        part = parts.pop()
        try:
            trial.outputs.append((part, execute(part)))
        except Exception as error:  # noqa: BLE001 - the boundary: this part's failure only
            if is_out_of_memory(error):
                trial.unfinished.append(part)
            elif len(part.rows) == 1:
                trial.guilty.append((part.rows[0], error))
            else:
                parts += _halves(part)
    return trial


def _halves(batch: ScheduledBatch) -> list[ScheduledBatch]:
    """Both halves, the first one last: it is popped first."""
    middle = len(batch.rows) // 2
    return [ScheduledBatch(batch.rows[middle:]), ScheduledBatch(batch.rows[:middle])]
