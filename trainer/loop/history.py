"""What was measured at each step, in memory and line by line on disk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from trainer.loop.checkpoints import replace_file


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimiser step, or with `eval_loss` one evaluation after that step."""

    step: int
    epoch: float
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    metrics: dict[str, float] | None = None


class History:
    """Records in order; each is on disk before the next step begins. Close it when done.

    Of a file that is there already, what came after step `done_steps` is dropped: a run that goes
    on from a checkpoint does those steps again.
    """

    def __init__(self, path: Path, done_steps: int = 0) -> None:
        self._records = [r for r in read_history(path) if r.step <= done_steps]
        text = "".join(_line(record) for record in self._records)
        replace_file(path, text.encode())
        self._file: TextIO = path.open("a", encoding="utf-8")

    @property
    def records(self) -> tuple[StepRecord, ...]:
        return tuple(self._records)

    def add(self, record: StepRecord) -> None:
        """Keep `record` and append its fields that are set to the file."""
        self._records.append(record)
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> list[StepRecord]:
    """The records of a history file; a last line that a crash cut off is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(StepRecord(**json.loads(line)))
    return records


def _line(record: StepRecord) -> str:
    fields = {name: value for name, value in asdict(record).items() if value is not None}
    return json.dumps(fields) + "\n"
