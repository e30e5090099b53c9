"""How long a step may take before it counts as hung, from how long a full one took at the start."""

_SLOWDOWN = 100.0
"""Oversubscription: four servers and a training on two cores leave each a tenth, kernels that wait
for a thread without a core lose as much again. See docs/adr/0039."""

_LEAST_SECONDS = 120.0
_MOST_SECONDS = 600.0
"""The default of `request_timeout_seconds`: past it a step is of use to nobody."""

_STALLED_SHARE = 0.25


def step_timeout_seconds(full_step_seconds: float, device: str) -> float:
    """The default of the setting `step_timeout_seconds`.

    `full_step_seconds` is a whole step at the end of the window, 0 where none was measured. On a
    GPU first steps compile kernels, which no measurement at the start tells: it is the most.
    """
    if device != "cpu":
        return _MOST_SECONDS
    expected = _SLOWDOWN * full_step_seconds
    # A base so slow that even the most leaves it little room: it gets ten times what it takes.
    return max(_LEAST_SECONDS, min(expected, _MOST_SECONDS), 10 * full_step_seconds)


def stalled_seconds(timeout_seconds: float) -> float:
    """From which age of a step on the server takes nothing new: the step may never end.

    `timeout_seconds` 0 is never; then it is as if it were the least.
    """
    return _STALLED_SHARE * (timeout_seconds or _LEAST_SECONDS)
