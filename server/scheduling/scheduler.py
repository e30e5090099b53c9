"""Decides, step by step, which tokens of which sequences run. Holds no tensors.

`schedule()` returns a value, the runner executes it, `update()` records (as vLLM v1 does).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from server.core.batch import ScheduledBatch, ScheduledRow, StepOutput
from server.core.request import FinishReason
from server.core.settings import SchedulerSettings
from server.scheduling.blocks import BlockPool
from server.scheduling.queue import FairQueue
from server.scheduling.sequence import Sequence, SequencePhase, count_pins
from server.scheduling.slots import AdapterSlots
from server.scheduling.step_limits import StepLimits

_MAX_PASSED_OVER = 32
"""How often others may overtake a sequence that waits for blocks or pages."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Fill bank pages `pages` with the adapter `digest` before the step runs."""

    digest: str
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step does: first the placements, then the batch."""

    placements: tuple[Placement, ...]
    batch: ScheduledBatch


@dataclass(frozen=True, slots=True)
class SequenceUpdate:
    """What a step brought one sequence: a token, an end, or both."""

    sequence_id: int
    token_id: int | None
    finish_reason: FinishReason | None = None
    error: str | None = None


class Scheduler:
    """Owns every accepted sequence until it finishes, and the accounting of blocks and slots.

    `eos_token_ids` end a sequence, unless it ignores them; `base_digest` starts every prefix hash
    chain.
    """

    def __init__(
        self, settings: SchedulerSettings, *, eos_token_ids: frozenset[int], base_digest: str
    ) -> None:
        self._settings = settings
        self._eos_token_ids = eos_token_ids
        self._base_digest = base_digest
        self.blocks = BlockPool(
            settings.num_blocks,
            settings.block_size,
            enable_prefix_cache=settings.enable_prefix_cache,
        )
        self.slots = AdapterSlots(settings.num_adapter_pages)
        self._queue = FairQueue()
        self._sequences: dict[int, Sequence] = {}
        self._running: list[Sequence] = []  # in order of admission
        self._placements: dict[str, tuple[int, ...]] = {}
        self._unfilled: set[str] = set()
        self._passed_over: dict[int, int] = {}
        self.num_preemptions = 0
        self.limits = StepLimits(settings.max_num_sequences, settings.max_batch_tokens)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Take over a waiting sequence. Its adapters must be in host memory until it finishes."""
        assert sequence.phase is SequencePhase.WAITING
        self._sequences[sequence.sequence_id] = sequence
        self._queue.push(sequence)

    def finish(self, sequence_id: int, reason: FinishReason) -> bool:
        """End a sequence now, wherever it is, and free what it holds; False if it isn't here."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return False
        if sequence.phase is SequencePhase.WAITING:
            self._queue.remove(sequence)
        else:
            self._running.remove(sequence)
            self._release(sequence)
        self._passed_over.pop(sequence_id, None)
        sequence.phase = SequencePhase.FINISHED
        sequence.finish_reason = reason
        self._queue.retire({s.flow for s in self._running})
        return True

    def schedule(self) -> StepPlan | None:
        """Grant the next step: decodes first, then prefill chunks up to the token budget.

        Returns None when nothing can run.
        """
        self._discard_unfilled()
        budget = self.limits.tokens
        rows: list[ScheduledRow] = []
        num_preemptions = self.num_preemptions
        for sequence in list(self._running):
            if sequence.num_remaining == 1 and sequence.phase is SequencePhase.RUNNING:
                if budget == 0 or not self._grow(sequence, 1):
                    continue
                rows.append(self._row(sequence, 1))
                budget -= 1
        if rows and self._settings.max_prefill_beside_decodes is not None:
            budget = min(budget, self._settings.max_prefill_beside_decodes)
        for sequence in list(self._running):
            if budget == 0:
                break
            if sequence.num_remaining > 1 and sequence.phase is SequencePhase.RUNNING:
                budget -= self._schedule_chunk(sequence, budget, rows)
        preempted = self.num_preemptions != num_preemptions
        if budget and not preempted:
            self._admit(budget, rows)
        # Growth may have preempted a sequence whose row was granted already.
        kept = tuple(
            row for row in rows if self._sequences[row.sequence_id].phase is SequencePhase.RUNNING
        )
        if not kept:
            return None
        # A preempted newcomer's pages may have gone to another adapter since.
        placements = tuple(
            Placement(digest, pages)
            for digest, pages in self._placements.items()
            if self.slots.pages_of(digest) == pages
        )
        self._placements = {}
        return StepPlan(placements, ScheduledBatch(kept))

    def update(self, batch: ScheduledBatch, output: StepOutput) -> list[SequenceUpdate]:
        """Record a step: tokens computed, tokens drawn, sequences that ended."""
        self.limits.succeed()
        updates: list[SequenceUpdate] = []
        for row in batch.rows:
            sequence = self._sequences.get(row.sequence_id)
            if sequence is None:
                continue
            if error := output.failed.get(row.sequence_id):
                self.finish(row.sequence_id, FinishReason.ERROR)
                updates.append(SequenceUpdate(row.sequence_id, None, FinishReason.ERROR, error))
                continue
            sequence.num_computed += len(row.token_ids)
            self._queue.charge(sequence.flow, len(row.token_ids))
            self._register_full_blocks(sequence)
            if row.samples:
                updates.append(self._append(sequence, output.token_ids[row.sequence_id]))
        return updates

    def fail_batch(self, batch: ScheduledBatch, error: str) -> list[SequenceUpdate]:
        """End every sequence of a step that could not be executed."""
        updates = []
        for row in batch.rows:
            if self.finish(row.sequence_id, FinishReason.ERROR):
                updates.append(SequenceUpdate(row.sequence_id, None, FinishReason.ERROR, error))
        return updates

    def fail_adapter(self, digest: str, error: str) -> list[SequenceUpdate]:
        """End every running sequence that needs an adapter whose granted pages can't be filled."""
        updates = []
        for sequence in [s for s in self._running if digest in s.adapter_pages]:
            self.finish(sequence.sequence_id, FinishReason.ERROR)
            updates.append(SequenceUpdate(sequence.sequence_id, None, FinishReason.ERROR, error))
        self.forget_placement(digest)
        return updates

    def shrink(self, batch: ScheduledBatch) -> bool:
        """There was no memory for `batch`: its rows run again in smaller steps.

        Nothing of it was recorded. False when it can't be smaller.
        """
        return self.limits.shrink(len(batch.rows), batch.num_tokens)

    def forget_placement(self, digest: str) -> None:
        """The pages of a granted placement were not filled: let the next user ask for it again.

        Sequences that pin the adapter must have been failed or finished before the next step.
        """
        self._unfilled.add(digest)

    def check_integrity(self) -> None:
        """Assert that blocks, pages and pins are held by exactly the running sequences."""
        self.blocks.check_integrity([s.block_ids for s in self._running])
        self.slots.check_integrity(count_pins(self._running))
        assert len(self._queue) + len(self._running) == len(self._sequences)

    def _discard_unfilled(self) -> None:
        for digest in self._unfilled:
            assert all(digest not in s.adapter_pages for s in self._running), digest
            if self.slots.pages_of(digest) is not None:
                self.slots.discard(digest)
        self._unfilled.clear()

    def _append(self, sequence: Sequence, token_id: int) -> SequenceUpdate:
        sequence.token_ids.append(token_id)
        reason: FinishReason | None = None
        if token_id in self._eos_token_ids and not sequence.sampling.ignore_eos:
            reason = FinishReason.STOP
        elif len(sequence.token_ids) >= sequence.max_len:
            reason = FinishReason.LENGTH
        if reason is not None:
            self.finish(sequence.sequence_id, reason)
        return SequenceUpdate(sequence.sequence_id, token_id, reason)

    def _row(self, sequence: Sequence, num_tokens: int) -> ScheduledRow:
        start = sequence.num_computed
        return ScheduledRow(
            sequence_id=sequence.sequence_id,
            token_ids=sequence.token_ids[start : start + num_tokens],
            start=start,
            block_ids=sequence.block_ids,
            work=sequence.work,
            sampling=sequence.sampling,
            samples=start + num_tokens == len(sequence.token_ids),
            seed=sequence.seed,
            num_generated=sequence.num_generated,
        )

    def _schedule_chunk(self, sequence: Sequence, budget: int, rows: list[ScheduledRow]) -> int:
        num_tokens = min(sequence.num_remaining, budget)
        if not self._grow(sequence, num_tokens):
            return 0
        rows.append(self._row(sequence, num_tokens))
        return num_tokens

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Hold blocks for `num_tokens` more tokens, preempting later sequences if need be."""
        needed = self.blocks.blocks_for(sequence.num_computed + num_tokens)
        while len(sequence.block_ids) + self.blocks.num_available < needed:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        while len(sequence.block_ids) < needed:
            sequence.block_ids.append(self.blocks.allocate())
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        sequence.phase = SequencePhase.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._queue.push_front(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.blocks.free(sequence.block_ids)
        sequence.block_ids = []
        sequence.num_computed = 0
        sequence.num_registered = 0
        sequence.work = ()
        self.slots.unpin(sequence.adapter_pages)

    def _admit(self, budget: int, rows: list[ScheduledRow]) -> None:
        """Start waiting sequences, the most deserving flow first, while anything fits."""
        progress = True
        while progress and budget:
            progress = False
            for sequence in self._queue.heads():
                if len(self._running) >= self._settings.max_num_sequences:
                    return
                if not self._fits(sequence):
                    passed = self._passed_over.get(sequence.sequence_id, 0) + 1
                    self._passed_over[sequence.sequence_id] = passed
                    if passed > _MAX_PASSED_OVER:
                        return
                    continue
                self._start(sequence)
                budget -= self._schedule_chunk(sequence, budget, rows)
                progress = True
                break

    def _fits(self, sequence: Sequence) -> bool:
        """Whether blocks for the whole known text (and one more token), pages and the cap allow it.

        A sequence alone on an empty engine always fits: `Sequence.max_len` and the settings see
        to the blocks, the engine's admission to the pages.
        """
        if self.blocks.blocks_for(len(sequence.token_ids) + 1) > self.blocks.num_available:
            return False
        wanted = sequence.adapter_pages
        if not self.slots.can_pin(wanted):
            return False
        active = {d for s in self._running for d in s.adapter_pages}
        return len(active | set(wanted)) <= max(self._settings.max_adapters_per_step, len(wanted))

    def _start(self, sequence: Sequence) -> None:
        self._queue.remove(sequence)
        self._passed_over.pop(sequence.sequence_id, None)
        placed = self.slots.pin(sequence.adapter_pages)
        self._placements.update(placed)
        sequence.resolve_work(self._pages(sequence.adapter_pages))
        root = self.blocks.root(f"{self._base_digest}|{sequence.stack.digest}")
        sequence.block_ids, sequence.chain = self.blocks.match(root, sequence.token_ids)
        sequence.num_registered = len(sequence.block_ids)
        sequence.num_computed = len(sequence.block_ids) * self._settings.block_size
        sequence.phase = SequencePhase.RUNNING
        self._running.append(sequence)

    def _pages(self, digests: Iterable[str]) -> Mapping[str, tuple[int, ...]]:
        pages: dict[str, tuple[int, ...]] = {}
        for digest in digests:
            held = self.slots.pages_of(digest)
            assert held is not None, digest
            pages[digest] = held
        return pages

    def _register_full_blocks(self, sequence: Sequence) -> None:
        size = self._settings.block_size
        while (sequence.num_registered + 1) * size <= sequence.num_computed:
            index = sequence.num_registered
            tokens = sequence.token_ids[index * size : (index + 1) * size]
            sequence.chain = self.blocks.register(sequence.block_ids[index], sequence.chain, tokens)
            sequence.num_registered += 1
