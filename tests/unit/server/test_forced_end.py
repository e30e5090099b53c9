"""Told to stop, a process ends in time, even where its main thread runs no signal handler."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Signals are noted by the C handler only: no bytecode runs on the main thread.
SCRIPT = """
import ctypes, sys, time
from server.forced_end import ForcedEnd
from server.logs import set_up_logs

set_up_logs("info", "json", lambda: None)
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)

def a_long_wait():
    print("waiting", flush=True)
    lock = __import__("threading").Lock()
    lock.acquire()
    lock.acquire()

grace_seconds = float(sys.argv[1])
with ForcedEnd(grace_seconds=grace_seconds, hurry_seconds=0.1).watching():
    if sys.argv[2] == "blocks":
        a_long_wait()
    print("waiting", flush=True)
    sys.stdin.read()
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_blocked_process_with_0_and_the_log_says_where(
    number: signal.Signals,
) -> None:
    with started("0.1", "blocks") as child:
        child.send_signal(number)
        _, told = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "told to stop, and not done" in told
    assert "a_long_wait" in told


def test_a_second_signal_shortens_the_grace() -> None:
    with started("3600", "blocks") as child:
        child.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0


def test_without_a_signal_nobody_ends_it() -> None:
    with started("0", "waits") as child:
        _, told = child.communicate("", timeout=60)
    assert (child.returncode, told) == (0, "")
