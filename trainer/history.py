"""What was measured at each step, in memory and line by line on disk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO


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


class History:
    """Records in order; each is on disk before the next step begins. Close it when done."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._records: list[StepRecord] = []

    @property
    def records(self) -> tuple[StepRecord, ...]:
        return tuple(self._records)

    def add(self, record: StepRecord) -> None:
        """Keep `record` and append its fields that are set to the file."""
        self._records.append(record)
        fields = {name: value for name, value in asdict(record).items() if value is not None}
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
