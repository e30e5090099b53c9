"""Whether one more sequence fits beside those that run."""

from collections.abc import Collection

from server.core.settings import SchedulerSettings
from server.scheduling.blocks import BlockPool
from server.scheduling.sequence import Sequence, count_pins
from server.scheduling.slots import AdapterSlots


class Room:
    """Looks at places, blocks, pages and the cap on adapters; changes nothing."""

    def __init__(self, settings: SchedulerSettings, blocks: BlockPool, slots: AdapterSlots) -> None:
        self._settings = settings
        self._blocks = blocks
        self._slots = slots

    def is_full(self, num_running: int) -> bool:
        """Whether every place in the batch is taken."""
        return num_running >= self._settings.max_num_sequences

    def fits(
        self,
        sequence: Sequence,
        running: Collection[Sequence],
        without: Collection[Sequence] = (),
    ) -> bool:
        """Whether `sequence` can start beside `running`, were `without` of them put back.

        Blocks are counted for the whole known text and one more token. A sequence alone on an empty
        engine always fits: `Sequence.max_len` and the settings see to the blocks, the engine's
        admission to the pages.
        """
        if self.is_full(len(running) - len(without)):
            return False
        tables = [victim.block_ids for victim in without]
        available = self._blocks.num_available + self._blocks.num_only_in(tables)
        if self._blocks.blocks_for(len(sequence.token_ids) + 1) > available:
            return False
        wanted = sequence.adapter_pages
        if not self._slots.can_pin(wanted, count_pins(without)):
            return False
        gone = {victim.sequence_id for victim in without}
        active = {d for s in running if s.sequence_id not in gone for d in s.adapter_pages}
        return len(active | set(wanted)) <= max(self._settings.max_adapters_per_step, len(wanted))
