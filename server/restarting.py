"""Keeps a server running: a parent process that starts it again when it ends with an error."""

import ctypes
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from types import FrameType

logger = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0

_STEADY_SECONDS = 300.0
"""A server that ran so long had started well: what ends it is news, and the pauses begin anew."""

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


class ExitStatus(IntEnum):
    """How the process of a server ends."""

    STOPPED = 0  # told to
    FAILED = 1  # an error that a new start may mend
    UNUSABLE = 2  # settings, base or address: the next start would end the same way


class Restarter:
    """Runs `command` until it ends well, is told to stop, or can't be started as it is.

    SIGINT and SIGTERM are handed on. The pause before a new start doubles with each, up to a
    minute. `sleep` waits so many seconds, `clock` gives them.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = list(command)
        self._sleep = sleep
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._is_told = False

    def run(self) -> int:
        """The status to end with. Changes the handlers of both signals; on the main thread."""
        for number in _STOPPING:
            signal.signal(number, self._hand_on)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            started = self._clock()
            status = self._run_once()
            if self._is_told or status in (ExitStatus.STOPPED, ExitStatus.UNUSABLE):
                return status
            if -status in _STOPPING:
                return ExitStatus.STOPPED
            if self._clock() - started >= _STEADY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            ended = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
            logger.error("the server %s; it is started again in %g s", ended, pause)
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _run_once(self) -> int:
        # A group of its own: the terminal's Ctrl-C reaches it through us, and once.
        self._child = subprocess.Popen(self._command, process_group=0, preexec_fn=_end_with_parent)
        status = self._child.wait()
        self._child = None
        return status

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._is_told = True
        if (child := self._child) is not None:
            child.send_signal(number)
        else:  # A child that is just being made ends with us.
            raise SystemExit(ExitStatus.STOPPED)


def _end_with_parent() -> None:
    """In the child: a SIGTERM when the parent ends, however it does. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
