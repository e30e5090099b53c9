"""A queue that is fair between adapters: whoever has had the fewest tokens goes next.

Start-time fair queueing by tokens, as in VTC (arXiv:2401.00588): every flow has a virtual time that
grows with the tokens it is charged; the waiting flow with the smallest one is served first. A flow
that comes back from idleness starts at the smallest virtual time of the active ones, so that it
can't save up credit. Within a flow, first come first served.
"""

from collections import deque
from collections.abc import Iterator

from server.scheduling.sequence import Sequence


class FairQueue:
    """Waiting sequences, by flow. No limits here: admission is the engine's and scheduler's."""

    def __init__(self) -> None:
        self._flows: dict[str, deque[Sequence]] = {}
        self._virtual_time: dict[str, float] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, sequence: Sequence) -> None:
        """Append to its flow."""
        self._flow(sequence.flow).append(sequence)
        self._length += 1

    def push_front(self, sequence: Sequence) -> None:
        """Put back a preempted sequence, before everything else of its flow."""
        self._flow(sequence.flow).appendleft(sequence)
        self._length += 1

    def heads(self) -> Iterator[Sequence]:
        """The first sequence of each flow, most deserving first."""
        order = sorted(self._flows, key=lambda flow: self._virtual_time[flow])
        for flow in order:
            if waiting := self._flows.get(flow):
                yield waiting[0]

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence. Raises `ValueError` when it isn't here."""
        waiting = self._flows[sequence.flow]
        if waiting[0] is sequence:
            waiting.popleft()
        else:
            waiting.remove(sequence)
        self._length -= 1
        if not waiting:
            del self._flows[sequence.flow]

    def charge(self, flow: str, num_tokens: int) -> None:
        """Count tokens that were computed for a flow."""
        if flow in self._virtual_time:
            self._virtual_time[flow] += num_tokens

    def retire(self, active_flows: set[str]) -> None:
        """Forget the virtual time of flows with nothing waiting and nothing running."""
        for flow in [f for f in self._virtual_time if f not in self._flows]:
            if flow not in active_flows:
                del self._virtual_time[flow]

    def _flow(self, flow: str) -> deque[Sequence]:
        if flow not in self._virtual_time:
            floor = min(self._virtual_time.values(), default=0.0)
            self._virtual_time[flow] = floor
        elif flow not in self._flows:
            # Only its own running sequences kept the record: no credit for not having waited.
            floor = min((self._virtual_time[f] for f in self._flows), default=0.0)
            self._virtual_time[flow] = max(self._virtual_time[flow], floor)
        return self._flows.setdefault(flow, deque())
