"""The event loop's sign of life, and how long a step may take."""

import asyncio

import pytest

from server.engine.loop_pulse import LoopPulse
from server.engine.step_timeout import stalled_seconds, step_timeout_seconds


async def test_a_loop_that_runs_gives_its_sign_and_one_that_does_not_misses_it() -> None:
    now = 5.0
    pulse = LoopPulse(asyncio.get_running_loop(), lambda: now)
    assert pulse.missing_since() is None
    assert pulse.missing_since() == 5.0, "the loop hasn't run since"
    now = 7.0
    assert pulse.missing_since() == 5.0
    await asyncio.sleep(0)
    assert pulse.missing_since() is None
    assert pulse.missing_since() == 7.0


def test_a_closed_loop_owes_no_sign() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    pulse = LoopPulse(loop)
    assert [pulse.missing_since() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize(
    ("full_step_seconds", "device", "expected"),
    [
        (0.0, "cpu", 120.0),  # not measured
        (0.2, "cpu", 120.0),
        (3.0, "cpu", 300.0),
        (20.0, "cpu", 600.0),
        (90.0, "cpu", 900.0),
        (0.01, "cuda", 600.0),
    ],
)
def test_a_step_may_take_a_hundred_times_what_it_takes_within_bounds(
    full_step_seconds: float, device: str, expected: float
) -> None:
    assert step_timeout_seconds(full_step_seconds, device) == expected


def test_a_server_takes_nothing_new_long_before_it_gives_a_step_up() -> None:
    assert stalled_seconds(120.0) == 30.0
    assert stalled_seconds(0) == 30.0, "a step that is never given up still stops the door"
