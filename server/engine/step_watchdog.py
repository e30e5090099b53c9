"""Notices what never ends: nobody can interrupt a step in a kernel, or a blocked event loop."""

import threading
import time
from collections.abc import Callable

_TICKS_PER_TIMEOUT = 20
_MAX_TICK_SECONDS = 1.0


class StepWatchdog:
    """Calls `on_hang`, once, when one step has run for `timeout_seconds`; a timeout of 0 is never.

    It looks on a thread of its own, which a blocked event loop doesn't hold up, and adds up what
    passes between its looks, at most two ticks at a time: while the process is stopped, frozen or
    starved the step can't run either, and that time isn't held against it.

    `step_started_at` tells steps apart: it is None between them. `clock` gives seconds; `name` is
    the thread's.
    """

    def __init__(
        self,
        step_started_at: Callable[[], float | None],
        *,
        timeout_seconds: float,
        on_hang: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        name: str = "step-watchdog",
    ) -> None:
        assert timeout_seconds >= 0
        self._step_started_at = step_started_at
        self._timeout_seconds = timeout_seconds
        self._on_hang = on_hang
        self._clock = clock
        self._tick_seconds = min(timeout_seconds / _TICKS_PER_TIMEOUT, _MAX_TICK_SECONDS)
        self._watched: float | None = None
        self._seen_seconds = 0.0
        self._looked_at = clock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        if self._timeout_seconds:
            self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def look(self) -> bool:
        """Look once; whether the present step has been seen running for too long."""
        now, started_at = self._clock(), self._step_started_at()
        passed = min(now - self._looked_at, 2 * self._tick_seconds)
        self._looked_at = now
        if started_at is None or started_at != self._watched:
            self._watched, self._seen_seconds = started_at, 0.0
            return False
        self._seen_seconds += passed
        return self._seen_seconds >= self._timeout_seconds

    def _watch(self) -> None:
        while not self._stopped.wait(self._tick_seconds):
            if self.look():
                self._on_hang()
                return
