"""Places for what a sequence carries from step to step beside its KV blocks: its recurrent state.

A slot is held from admission to the end or to preemption, as blocks are, so there are as many as
sequences that may run at once. A sequence that starts again starts with an empty state.
"""

from collections.abc import Collection


class StateSlots:
    """Which slots are free. The last one given back is the first one granted again."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._free = list(range(num_slots))[::-1]

    def grant(self) -> int:
        """A slot for one more running sequence; there is one for each that may run."""
        return self._free.pop()

    def free(self, slot: int) -> None:
        """Take back a slot that was granted."""
        assert 0 <= slot < self._num_slots
        assert slot not in self._free, slot
        self._free.append(slot)

    def check_integrity(self, held: Collection[int]) -> None:
        """Assert that exactly the slots in `held` are granted."""
        assert len(set(held)) == len(held), held
        assert sorted((*held, *self._free)) == list(range(self._num_slots))
