"""Virtual times: how much each has had of what is shared."""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class VirtualTimes(Generic[Key]):
    """A time for each key that grows with what it is charged; the smallest one is served next.

    Start-time fair queueing by tokens, as in VTC (arXiv:2401.00588).
    """

    def __init__(self) -> None:
        self._times: dict[Key, float] = {}

    def __getitem__(self, key: Key) -> float:
        return self._times[key]

    def __contains__(self, key: object) -> bool:
        return key in self._times

    def enter(self, key: Key, peers: Iterable[Key]) -> None:
        """`key` begins to wait beside `peers`: it starts no earlier than the earliest of them.

        So nobody saves up credit by staying away.
        """
        floor = min((self._times[p] for p in peers if p in self._times), default=0.0)
        self._times[key] = max(self._times.get(key, floor), floor)

    def charge(self, key: Key, amount: float) -> None:
        """Count what `key` had, if it is known."""
        if key in self._times:
            self._times[key] += amount

    def keep(self, is_wanted: Callable[[Key], bool]) -> None:
        """Forget all others."""
        for key in [key for key in self._times if not is_wanted(key)]:
            del self._times[key]

    def known(self) -> Iterable[Key]:
        """Whose time is known."""
        return self._times.keys()
