"""A queue that is fair between tenants, and between the adapters of each tenant.

Whoever has had the fewest tokens, relative to its weight, goes next; within a flow, first come
first served. Two levels (docs/adr/0022): nobody gets more by spreading over many adapters.
"""

from collections import deque
from collections.abc import KeysView

from server.scheduling.flow import Flow
from server.scheduling.sequence import Sequence
from server.scheduling.virtual_time import VirtualTimes


class FairQueue:
    """Waiting sequences, by flow. No limits here: admission is the engine's and scheduler's."""

    def __init__(self) -> None:
        self._flows: dict[Flow, deque[Sequence]] = {}
        self._tenant_times: VirtualTimes[str] = VirtualTimes()
        self._flow_times: VirtualTimes[Flow] = VirtualTimes()
        self._weights: dict[str, float] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def flows(self) -> KeysView[Flow]:
        """The flows that have something waiting."""
        return self._flows.keys()

    def push(self, sequence: Sequence) -> None:
        """Append to its flow."""
        self._flow(sequence).append(sequence)
        self._length += 1

    def push_front(self, sequence: Sequence) -> None:
        """Put back a preempted sequence, before everything else of its flow."""
        self._flow(sequence).appendleft(sequence)
        self._length += 1

    def head(self, flow: Flow) -> Sequence | None:
        """The first sequence of a flow."""
        waiting = self._flows.get(flow)
        return waiting[0] if waiting else None

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

    def time_of(self, flow: Flow) -> tuple[float, float]:
        """Virtual times of tenant and flow: the smaller, the more deserving."""
        return self._tenant_times[flow.tenant], self._flow_times[flow]

    def weight_of(self, tenant: str) -> float:
        """The tenant's share relative to others."""
        return self._weights.get(tenant, 1.0)

    def charge(self, flow: Flow, num_tokens: int) -> None:
        """Count tokens that a flow is granted."""
        self._tenant_times.charge(flow.tenant, num_tokens / self.weight_of(flow.tenant))
        self._flow_times.charge(flow, num_tokens)

    def retire(self, active_flows: set[Flow]) -> None:
        """Forget flows, and tenants, with nothing waiting and nothing running."""
        self._flow_times.keep(lambda flow: flow in self._flows or flow in active_flows)
        tenants = {flow.tenant for flow in self._flow_times.known()}
        self._tenant_times.keep(tenants.__contains__)
        self._weights = {t: w for t, w in self._weights.items() if t in tenants}

    def _flow(self, sequence: Sequence) -> deque[Sequence]:
        flow = sequence.flow
        self._weights[flow.tenant] = sequence.weight
        if flow not in self._flows:
            self._enter(flow)
        return self._flows.setdefault(flow, deque())

    def _enter(self, flow: Flow) -> None:
        # Who is only kept on record by what it runs starts no earlier than those who wait.
        waiting = self._flows.keys()
        tenants = {f.tenant for f in waiting}
        if flow.tenant not in tenants:
            known = flow.tenant in self._tenant_times
            self._tenant_times.enter(flow.tenant, tenants if known else self._tenant_times.known())
        known = flow in self._flow_times
        peers = waiting if known else self._flow_times.known()
        self._flow_times.enter(flow, [f for f in peers if f.tenant == flow.tenant])
