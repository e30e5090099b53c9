"""Ends a process that was told to stop and doesn't come to it, whatever its event loop does."""

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

_STOPPING = (signal.SIGINT, signal.SIGTERM)

_LAST_RESORT_SECONDS = 5.0
"""Behind the forced end: for code that keeps Python's lock, so that no thread of ours runs."""


class ForcedEnd:
    """From the first SIGINT or SIGTERM on the process has `grace_seconds`; a second one leaves it
    `hurry_seconds`. Then it ends with status 0, as told, and the log says where its loop was.

    Python runs signal handlers on the main thread only, which is the event loop's: a loop that is
    blocked in C never gets to one. The number of the signal is written to a socket by the C handler
    itself, and read here by another thread. `end` is called there, in place of ending the process.
    """

    def __init__(
        self, *, grace_seconds: float, hurry_seconds: float, end: Callable[[], None] | None = None
    ) -> None:
        self._grace_seconds = grace_seconds
        self._hurry_seconds = hurry_seconds
        self._end = end or self._end_process
        self._main = threading.main_thread().ident or 0
        self._read, self._write = socket.socketpair()
        self._old_wakeup = -1
        self._is_told = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While the context lasts. On the main thread, with its event loop running."""
        self._write.setblocking(False)
        # uvloop has a descriptor of its own there, by which signals wake it: it gets them too.
        self._old_wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="forced-end", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(self._old_wakeup)
            self._old_wakeup = -1
            if not self._is_told:  # What still follows the serving has to end in time as well.
                self._write.close()  # ends the thread

    def _watch(self) -> None:
        deadline: float | None = None
        while deadline is None or deadline > time.monotonic():
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            self._read.settimeout(left)
            try:
                numbers = self._read.recv(64)
            except TimeoutError:
                continue
            if not numbers:
                self._read.close()
                return
            with contextlib.suppress(OSError):
                if self._old_wakeup != -1:
                    os.write(self._old_wakeup, numbers)
            for number in numbers:
                if number in _STOPPING:
                    self._is_told = True
                    seconds = self._grace_seconds if deadline is None else self._hurry_seconds
                    deadline = min(deadline or float("inf"), time.monotonic() + seconds)
                    self._arm_last_resort(deadline - time.monotonic() + _LAST_RESORT_SECONDS)
        self._end()

    @staticmethod
    def _arm_last_resort(seconds: float) -> None:
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)

    def _end_process(self) -> None:
        try:
            logger.critical(
                "told to stop, and not done after %g s: the process ends now. The event loop is "
                "in:\n%s",
                self._grace_seconds,
                stack_of(self._main),
            )
            logging.shutdown()
        finally:
            os._exit(0)


def stack_of(thread_id: int) -> str:
    """Where a thread is; empty when it runs no more."""
    frame = sys._current_frames().get(thread_id)
    return "".join(traceback.format_stack(frame)) if frame is not None else ""
