"""How many sequences may be in the server at once, and how many of them one flow may have."""

import time
from collections import Counter
from collections.abc import Callable

from server.core.errors import OverloadedError

_FLOW_SHARE, _TENANT_SHARE = 8, 64
"""A flow, and a tenant, may hold up to so many times what is free (docs/adr/0023)."""

_LEAST_RETRY_SECONDS, _MOST_RETRY_SECONDS = 1.0, 60.0


class Admission:
    """Counts accepted sequences until they end. Belongs to one event loop.

    The bound of one flow moves with the room that is left (dynamic thresholds, Choudhury and Hahne,
    1998): a flow alone may have 8/9 of the places, a key 64/65, and whoever else comes finds one.
    """

    def __init__(
        self, max_running: int, max_waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_running = max_running
        self._limit = max_running + max_waiting
        self._clock = clock
        self._num_accepted = 0
        self._by_tenant: Counter[str] = Counter()
        self._by_flow: Counter[tuple[str, str]] = Counter()
        self._last_end = clock()
        self._seconds_per_end = 0.0

    @property
    def num_accepted(self) -> int:
        return self._num_accepted

    def enter(self, tenant: str, flow: str, count: int) -> None:
        """Take `count` places. Raises `OverloadedError`, and takes none then."""
        if self._num_accepted + count > self._limit:
            raise OverloadedError(
                f"there is no room for {count} more sequences: at most {self._limit} may run or "
                "wait at once (setting max_waiting)",
                self._retry_after_seconds(),
            )
        num_free = self._limit - self._num_accepted
        for held, share, whose in (
            (self._by_flow[tenant, flow], _FLOW_SHARE, f"of {flow}"),
            (self._by_tenant[tenant], _TENANT_SHARE, "of one key"),
        ):
            if held + count > share * num_free:
                raise OverloadedError(
                    f"{held} sequences {whose} are running or waiting; {count} more are more than "
                    f"one may have of {self._limit} places while the server is as busy as now",
                    self._retry_after_seconds(),
                )
        self._num_accepted += count
        self._by_flow[tenant, flow] += count
        self._by_tenant[tenant] += count

    def leave(self, tenant: str, flow: str, count: int) -> None:
        """Give `count` places back."""
        self._num_accepted -= count
        self._by_flow[tenant, flow] -= count
        self._by_tenant[tenant] -= count
        if not self._by_flow[tenant, flow]:
            del self._by_flow[tenant, flow]
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
        now = self._clock()
        seconds = (now - self._last_end) / count
        self._seconds_per_end += 0.1 * (seconds - self._seconds_per_end)
        self._last_end = now

    def _retry_after_seconds(self) -> float:
        """About how long those who wait now will take."""
        num_waiting = max(0, self._num_accepted - self._max_running)
        seconds = num_waiting * self._seconds_per_end
        return min(max(seconds, _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS)
