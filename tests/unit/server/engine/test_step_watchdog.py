"""A step that hangs is noticed; one that is slow, or stood still with the process, is not."""

import threading

from server.engine.step_watchdog import StepWatchdog

TIMEOUT_SECONDS = 600.0


class Steps:
    """A step loop seen from outside, and the time; both stand still unless they are moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.started_at: float | None = None
        self.watchdog = StepWatchdog(
            lambda: self.started_at,
            timeout_seconds=TIMEOUT_SECONDS,
            on_hang=lambda: None,
            clock=lambda: self.now,
        )

    def begin(self) -> None:
        self.started_at = self.now

    def looks_for(self, seconds: int) -> bool:
        """Whether one of a look a second found a hang."""
        for _ in range(seconds):
            self.now += 1
            if self.watchdog.look():
                return True
        return False


def test_a_step_may_take_as_long_as_allowed_and_no_longer() -> None:
    steps = Steps()
    steps.begin()
    assert not steps.looks_for(600)
    assert steps.looks_for(2)


def test_an_idle_engine_never_hangs() -> None:
    assert not Steps().looks_for(5000)


def test_each_step_has_the_whole_time() -> None:
    steps = Steps()
    for _ in range(5):
        steps.begin()
        assert not steps.looks_for(400)
    steps.started_at = None
    assert not steps.looks_for(400)
    steps.begin()
    assert not steps.looks_for(400)


def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    steps = Steps()
    steps.begin()
    assert not steps.looks_for(300)
    for _ in range(3):
        steps.now += 86400
        assert not steps.watchdog.look()
    assert not steps.looks_for(290)
    assert steps.looks_for(20)


def test_a_hang_is_told_once_from_a_thread_of_its_own() -> None:
    told: list[str] = []
    has_told = threading.Event()

    def on_hang() -> None:
        told.append(threading.current_thread().name)
        has_told.set()

    watchdog = StepWatchdog(lambda: 1.0, timeout_seconds=0.01, on_hang=on_hang)
    watchdog.start()
    assert has_told.wait(60)
    watchdog._thread.join(60)
    assert told == ["step-watchdog"]


def test_without_a_timeout_nobody_watches() -> None:
    watchdog = StepWatchdog(lambda: 1.0, timeout_seconds=0, on_hang=lambda: None)
    watchdog.start()
    assert not watchdog._thread.is_alive()
    watchdog.stop()
