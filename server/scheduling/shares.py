"""Who holds more than its share of the batch, and what that means for one step.

See docs/adr/0022. Without anybody over its share nothing here changes a step.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from server.scheduling.flow import Flow
from server.scheduling.sequence import Sequence as Running


@dataclass(frozen=True, slots=True)
class Turns:
    """What the sequences of limited flows may compute in one step; the others aren't limited.

    `tokens` holds tokens by sequence id, `room` what each limited flow has left for newcomers.
    """

    tokens: Mapping[int, int] = field(default_factory=dict)
    room: Mapping[Flow, int] = field(default_factory=dict)

    def tokens_for(self, sequence: Running, wanted: int) -> int:
        """How many of `wanted` tokens a running sequence gets."""
        if sequence.flow not in self.room:
            return wanted
        return min(wanted, self.tokens.get(sequence.sequence_id, 0))

    def room_for(self, flow: Flow, wanted: int) -> int:
        """How many of `wanted` tokens a newcomer gets."""
        return min(wanted, self.room.get(flow, wanted))


EVERYBODY = Turns()


class Shares:
    """Places in the batch, divided by weight between tenants and equally between their flows.

    `running` counts places held by flow; `waiting` are the flows that want some. A share is at
    least one place, so that the first of a flow is never over it.
    """

    def __init__(
        self,
        num_places: int,
        running: Mapping[Flow, int],
        waiting: Iterable[Flow],
        weight_of: Callable[[str], float],
    ) -> None:
        self._held = Counter(running)
        self._held_by_tenant: Counter[str] = Counter()
        for flow, count in running.items():
            self._held_by_tenant[flow.tenant] += count
        flows = running.keys() | set(waiting)
        flows_of = Counter(flow.tenant for flow in flows)
        weights = sum(weight_of(tenant) for tenant in flows_of)
        self._by_tenant = {tenant: num_places * weight_of(tenant) / weights for tenant in flows_of}
        self._by_flow = {
            flow: max(1, int(self._by_tenant[flow.tenant] / flows_of[flow.tenant]))
            for flow in flows
        }
        self.over = frozenset(flow for flow in running if self.is_over(flow, running[flow]))

    def is_over(self, flow: Flow, num_held: int) -> bool:
        """Whether `num_held` places are more than the flow's share."""
        return num_held > self._by_flow[flow]

    def victims(self, newcomer: Flow, running: Sequence[Running]) -> Iterable[Running]:
        """Running sequences that may be put back for `newcomer`'s sake, the latest first.

        They are of flows over their share, of the same tenant or of one over its own share, and
        only while the newcomer is below its own.
        """
        held, held_by_tenant = self._held.copy(), self._held_by_tenant.copy()
        if held[newcomer] >= self._by_flow[newcomer]:
            return
        for sequence in reversed(running):
            flow = sequence.flow
            if held[flow] <= self._by_flow[flow]:
                continue
            is_foreign = flow.tenant != newcomer.tenant
            if is_foreign and held_by_tenant[flow.tenant] <= self._by_tenant[flow.tenant]:
                continue
            held[flow] -= 1
            held_by_tenant[flow.tenant] -= 1
            yield sequence

    def turns(self, running: Sequence[Running], crowding: float | None) -> Turns:
        """Whose turn it is in this step.

        Flows over their share together get `crowding` tokens for each running sequence of the
        others, and each at least its share; those of its sequences that ran longest ago go first.
        None leaves them everything, and so does the absence of others.
        """
        others = sum(1 for sequence in running if sequence.flow not in self.over)
        if crowding is None or not self.over or not others:
            return EVERYBODY
        room = {
            flow: max(self._by_flow[flow], int(crowding * others / len(self.over)))
            for flow in self.over
        }
        tokens: dict[int, int] = {}
        for sequence in sorted(running, key=lambda s: s.last_step):
            left = room.get(sequence.flow, 0)
            if left:
                tokens[sequence.sequence_id] = min(left, sequence.num_remaining)
                room[sequence.flow] = left - tokens[sequence.sequence_id]
        return Turns(tokens, room)
