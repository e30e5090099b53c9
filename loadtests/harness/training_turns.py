"""Trainings that take one step each, in turns, every one in a process of its own.

Whatever else the machine does hits all alike, and each side's peak of resident memory is its own.
A side is started as `python -m loadtests.harness.training_side SPEC.json` and spoken to by lines:
it says that it is ready, and answers each `step` with what that step was.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.harness.command import MeasurementError


@dataclass(frozen=True, slots=True)
class SideSpec:
    """What one side trains. `kind` is `ours` or `trl`.

    A step is about `step_tokens` (ours) or exactly `step_rows` rows (TRL's); `packing` is ours,
    `checkpointing` recomputes activations in the backward.
    """

    name: str
    kind: str
    base: str
    rows: str
    folder: str
    step_tokens: int
    step_rows: int
    num_steps: int
    rank: int = 16
    packing: bool = False
    checkpointing: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step: real tokens, those computed with the padding, wall seconds, the peak of
    resident memory of its process so far.
    """

    tokens: int
    computed_tokens: int
    seconds: float
    peak_bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class SideResult:
    """All counted steps of one side; the first one of each process warms it up."""

    name: str
    steps: tuple[Step, ...]

    @property
    def tokens_per_second(self) -> float:
        """All real tokens over all seconds."""
        return sum(s.tokens for s in self.steps) / sum(s.seconds for s in self.steps)

    @property
    def median_tokens_per_second(self) -> float:
        """Of the steps."""
        return statistics.median(step.tokens / step.seconds for step in self.steps)

    @property
    def padding(self) -> float:
        """The part of what was computed that no row asked for."""
        return 1 - sum(s.tokens for s in self.steps) / sum(s.computed_tokens for s in self.steps)

    @property
    def peak_bytes(self) -> int:
        return max(step.peak_bytes for step in self.steps)


class _Side:
    """A running side."""

    def __init__(self, spec: SideSpec) -> None:
        folder = Path(spec.folder)
        folder.mkdir(parents=True)
        file = folder / "spec.json"
        file.write_text(json.dumps(asdict(spec)), encoding="utf-8")
        self.spec = spec
        self._log = folder / "log.txt"
        # Threads that spin on after a product would take the cores from the side whose turn it is.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loadtests.harness.training_side", str(file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment,
            )  # fmt: skip

    def wait_until_ready(self) -> None:
        if self._answer() != "ready":
            raise MeasurementError(f"{self.spec.name} didn't start:\n{self._tail()}")

    def step(self) -> Step:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        line = self._answer()
        if not line:
            raise MeasurementError(f"{self.spec.name} ended in its step:\n{self._tail()}")
        return Step(**json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _tail(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:]


def train_in_turns(specs: Sequence[SideSpec], num_counted: int) -> list[SideResult]:
    """Every side warms up with one step, then all take `num_counted` more, one at a time.

    Raises `MeasurementError` with the end of a side's log when it fails.
    """
    counted: dict[str, list[Step]] = {spec.name: [] for spec in specs}
    with _running(specs) as sides:
        for turn in range(num_counted + 1):
            for side in sides:
                step = side.step()
                if turn:
                    counted[side.spec.name].append(step)
                    rate = step.tokens / step.seconds
                    print(
                        f"step {turn}: {side.spec.name}: {step.tokens} tokens in "
                        f"{step.seconds:.2f} s, {rate:.0f} tokens/s, loss {step.loss:.3f}",
                        flush=True,
                    )
    return [SideResult(name, tuple(steps)) for name, steps in counted.items()]


@contextlib.contextmanager
def _running(specs: Sequence[SideSpec]) -> Iterator[list[_Side]]:
    sides: list[_Side] = []
    try:
        for spec in specs:
            sides.append(_Side(spec))
            sides[-1].wait_until_ready()
        yield sides
    finally:
        for side in sides:
            side.close()


def format_results(results: Sequence[SideResult], against: str) -> str:
    """A table; ratios are over the side called `against`."""
    from loadtests.harness.report import format_table

    (reference,) = (result for result in results if result.name == against)
    header = (
        "training", "steps", "tokens/s", "median", "x (median)", "padding", "peak MiB",
    )  # fmt: skip
    return format_table(
        header,
        [
            (
                result.name,
                str(len(result.steps)),
                f"{result.tokens_per_second:.0f}",
                f"{result.median_tokens_per_second:.0f}",
                f"{result.median_tokens_per_second / reference.median_tokens_per_second:.2f}",
                f"{result.padding:.1%}",
                f"{result.peak_bytes / 2**20:.0f}",
            )
            for result in results
        ],
    )
