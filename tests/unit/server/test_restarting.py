"""What ends with an error is started again, and nothing else is; real processes, pauses skipped."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from server.restarting import ExitStatus, Restarter

ROOT = Path(__file__).parents[3]
CHILD = """
import os, signal, sys
from pathlib import Path
log = Path(sys.argv[1])
log.touch()
index = len(log.read_text().split())
log.write_text(log.read_text() + "start ")
end = sys.argv[2:][min(index, len(sys.argv) - 3)]
os.kill(os.getpid(), -int(end)) if int(end) < 0 else sys.exit(int(end))
"""
PARENT = """
import sys
from server.restarting import Restarter
child = ("import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); "
         "print('ready', flush=True); time.sleep(600)")
sys.exit(Restarter([sys.executable, "-c", child]).run())
"""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(log: Path, ends: Sequence[int], **options: object) -> tuple[int, int, list[float]]:
    """The status, the number of starts, and the pauses between them."""
    pauses: list[float] = []
    command = [sys.executable, "-c", CHILD, str(log), *map(str, ends)]
    status = Restarter(command, sleep=pauses.append, **options).run()  # type: ignore[arg-type]
    return status, len(log.read_text().split()), pauses


def test_errors_and_kills_are_started_again_until_it_ends_well(tmp_path: Path) -> None:
    status, num_starts, pauses = ended(tmp_path / "log", [1, -signal.SIGKILL, 3, 0])
    assert (status, num_starts) == (ExitStatus.STOPPED, 4)
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize(
    ("end", "expected"),
    [(0, ExitStatus.STOPPED), (2, ExitStatus.UNUSABLE), (-signal.SIGTERM, ExitStatus.STOPPED),
     (-signal.SIGINT, ExitStatus.STOPPED)],
)  # fmt: skip
def test_what_would_end_again_or_was_told_to_is_not(
    tmp_path: Path, end: int, expected: ExitStatus
) -> None:
    assert ended(tmp_path / "log", [end, 0]) == (expected, 1, [])


def test_pauses_are_bounded_and_begin_anew_behind_a_good_run(tmp_path: Path) -> None:
    ticks = iter([0.0, 1.0] * 8 + [0.0, 1000.0] + [0.0, 1.0] * 5)
    _, _, pauses = ended(tmp_path / "log", [1] * 9 + [0], clock=lambda: next(ticks))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 1]


def test_a_signal_is_handed_on_and_ends_both() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent:
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == 5, "the child's own end, and no new start"
