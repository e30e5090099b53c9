"""Whose turn it is to have a piece of prompt computed, over and over within one step."""

import heapq
from collections.abc import Collection, Iterable, Mapping

from server.scheduling.flow import Flow
from server.scheduling.queue import FairQueue
from server.scheduling.sequence import Sequence

_Rank = tuple[float, int, float, bool, int, Flow]


class FlowOrder:
    """The flows with a prompt to compute, most deserving first.

    First the tenants' virtual times, then their flows'; at equal times those that are within their
    share, then whoever came first: a flow that comes back again and again starts at the time of
    those that wait, and stands behind them.
    """

    def __init__(
        self,
        queue: FairQueue,
        prompts: Mapping[Flow, Iterable[Sequence]],
        waiting: Iterable[Flow],
        over: Collection[Flow],
    ) -> None:
        self._queue = queue
        self._over = over
        self._arrival: dict[Flow, int] = {}
        self._tenant_arrival: dict[str, int] = {}
        for flow in prompts.keys() | set(waiting):
            firsts = [sequence.sequence_id for sequence in prompts.get(flow, ())]
            if (head := queue.head(flow)) is not None:
                firsts.append(head.sequence_id)
            self._arrival[flow] = min(firsts)
            known = self._tenant_arrival.get(flow.tenant, min(firsts))
            self._tenant_arrival[flow.tenant] = min(known, *firsts)
        self._ranks = [self._rank(flow) for flow in self._arrival]
        heapq.heapify(self._ranks)

    def next(self) -> Flow | None:
        """The flow whose turn it is; the same one again until it is charged or dropped."""
        while self._ranks:
            flow = self._ranks[0][-1]
            now = self._rank(flow)
            if now == self._ranks[0]:
                return flow
            heapq.heapreplace(self._ranks, now)  # It had something since; times only grow.
        return None

    def drop(self) -> None:
        """The flow whose turn it is can't use it in this step."""
        heapq.heappop(self._ranks)

    def _rank(self, flow: Flow) -> _Rank:
        tenant_time, flow_time = self._queue.time_of(flow)
        return (
            tenant_time,
            self._tenant_arrival[flow.tenant],
            flow_time,
            flow in self._over,
            self._arrival[flow],
            flow,
        )
