"""Decides, step by step, which tokens of which sequences run. Holds no tensors.

`schedule()` returns a value, the runner executes it, `update()` records (as vLLM v1 does).
"""

import math
from collections import Counter, deque

from server.core.batch import ScheduledBatch, ScheduledRow, StepOutput
from server.core.request import FinishReason
from server.core.settings import SchedulerSettings
from server.scheduling.blocks import BlockPool
from server.scheduling.flow import Flow
from server.scheduling.flow_order import FlowOrder
from server.scheduling.plan import Placement, SequenceUpdate, StepPlan
from server.scheduling.queue import FairQueue
from server.scheduling.room import Room
from server.scheduling.sequence import Sequence, SequencePhase, count_pins
from server.scheduling.shares import EVERYBODY, Shares, Turns
from server.scheduling.slots import AdapterSlots
from server.scheduling.state_slots import StateSlots
from server.scheduling.step_limits import StepLimits

_MAX_PASSED_OVER = 32
"""How often others may overtake a sequence that waits for blocks or pages."""


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
        self._states = StateSlots(settings.max_num_sequences)
        self._room = Room(settings, self.blocks, self.slots)
        self._queue = FairQueue()
        self._sequences: dict[int, Sequence] = {}
        self._running: list[Sequence] = []  # in order of admission
        self._placements: dict[str, tuple[int, ...]] = {}
        self._unfilled: set[str] = set()
        self._passed_over: dict[int, int] = {}
        self.num_preemptions = 0
        self._held: Counter[Flow] = Counter()  # running sequences by flow
        self._shares: Shares | None = None  # of this step
        self._put_back: set[int] = set()  # in this step, for others' sake
        self._is_short_of_blocks = False  # in this step
        self._blocked_by: Flow | None = None  # was passed over too often: nobody else is admitted
        self._step = 0
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
            self._leave(sequence)
            self._release(sequence)
        self._forget_waiting(sequence)
        sequence.phase = SequencePhase.FINISHED
        sequence.finish_reason = reason
        self._queue.retire(set(self._held))
        return True

    def schedule(self) -> StepPlan | None:
        """Grant the next step: decodes first, then prefill chunks up to the token budget.

        Returns None when nothing can run.
        """
        self._discard_unfilled()
        self._step += 1
        self._put_back.clear()
        self._is_short_of_blocks = False
        self._shares = self._current_shares()
        crowding = self._settings.crowding
        turns = self._shares.turns(self._running, crowding) if self._shares else EVERYBODY
        rows: list[ScheduledRow] = []
        budget = self.limits.tokens - self._schedule_decodes(turns, rows)
        if rows and self._settings.max_prefill_beside_decodes is not None:
            budget = min(budget, self._settings.max_prefill_beside_decodes)
        self._schedule_prompts(budget, turns, rows)
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
            if error := output.refused.get(row.sequence_id):
                self.finish(row.sequence_id, FinishReason.REFUSED)
                updates.append(SequenceUpdate(row.sequence_id, None, FinishReason.REFUSED, error))
                continue
            sequence.advance(len(row.token_ids))
            self._register_full_blocks(sequence)
            update = sequence.record(row, output, self._eos_token_ids)
            if update is None:
                continue
            if update.finish_reason is not None:
                self.finish(row.sequence_id, update.finish_reason)
            updates.append(update)
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
        self._states.check_integrity(
            [s.state_slot for s in self._running if s.state_slot is not None]
        )
        assert len(self._queue) + len(self._running) == len(self._sequences)
        assert self._held == Counter(s.flow for s in self._running)

    def _discard_unfilled(self) -> None:
        for digest in self._unfilled:
            assert all(digest not in s.adapter_pages for s in self._running), digest
            if self.slots.pages_of(digest) is not None:
                self.slots.discard(digest)
        self._unfilled.clear()

    def _current_shares(self) -> Shares | None:
        """Who holds how much of the batch; None while there is one flow only."""
        held, waiting = self._held, self._queue.flows
        if len(held) + sum(1 for flow in waiting if flow not in held) < 2:
            return None
        places = self._settings.max_num_sequences
        return Shares(places, held, waiting, self._queue.weight_of)

    def _schedule_decodes(self, turns: Turns, rows: list[ScheduledRow]) -> int:
        """Grant a token to each sequence that decodes and whose turn it is; returns how many."""
        sequences = list(self._running)
        if not self.limits.are_full:
            sequences.sort(key=lambda s: s.last_step)
        max_rows = min(self.limits.rows, self.limits.tokens)
        for sequence in sequences:
            if len(rows) == max_rows:
                break
            is_next = sequence.num_remaining == 1 and sequence.phase is SequencePhase.RUNNING
            if is_next and (turns is EVERYBODY or turns.tokens_for(sequence, 1)):
                self._schedule_chunk(sequence, 1, rows)
        return len(rows)

    def _schedule_prompts(self, budget: int, turns: Turns, rows: list[ScheduledRow]) -> None:
        """Spend `budget` tokens on prompts, the most deserving flow first.

        Within a flow those that run come before those that wait. A flow that can't use its turn
        drops out until the next step.
        """
        prompts: dict[Flow, deque[Sequence]] = {}
        for sequence in self._running:
            if sequence.num_remaining > 1:
                prompts.setdefault(sequence.flow, deque()).append(sequence)
        waiting = self._queue.flows if self._may_admit_any() else ()
        turn = FlowOrder(self._queue, prompts, waiting, self._shares.over if self._shares else ())
        # Full limits need no check: there are no more rows than places, once the put back are gone.
        max_rows = None if self.limits.are_full else self.limits.rows
        while budget > 0 and len(rows) != max_rows and (flow := turn.next()):
            spent = self._schedule_prompt(prompts.get(flow), flow, budget, turns, rows)
            budget -= spent
            if not spent:
                turn.drop()

    def _schedule_prompt(
        self,
        prompts: deque[Sequence] | None,
        flow: Flow,
        budget: int,
        turns: Turns,
        rows: list[ScheduledRow],
    ) -> int:
        """Grant the next piece of prompt of one flow; returns what of the budget it takes."""
        while prompts:
            sequence = prompts.popleft()
            wanted = turns.tokens_for(sequence, min(sequence.num_remaining, budget))
            if wanted and sequence.phase is SequencePhase.RUNNING:
                spent = self._schedule_chunk(sequence, wanted, rows)
                if spent:
                    return spent
        # Newcomers would take the blocks that those who run are short of.
        head = None if self._is_short_of_blocks else self._queue.head(flow)
        room = turns.room_for(flow, budget)
        if head is None or not room or head.sequence_id in self._put_back:
            return 0
        if not self._admit(head):
            return 0
        return self._schedule_chunk(head, min(head.num_remaining, room), rows)

    def _schedule_chunk(self, sequence: Sequence, num_tokens: int, rows: list[ScheduledRow]) -> int:
        num_tokens = sequence.same_work(num_tokens)
        price = sequence.token_price(self._settings.prefill_context_cost) if rows else 1.0
        if rows:
            num_tokens = sequence.share_of_step(max(1, int(num_tokens / price)))
        if not self._grow(sequence, num_tokens):
            return 0
        rows.append(sequence.row(num_tokens))
        sequence.last_step = self._step
        self._queue.charge(sequence.flow, sequence.cost_of(num_tokens))
        return math.ceil(num_tokens * price)

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Hold blocks for `num_tokens` more tokens, preempting later sequences if need be."""
        needed = self.blocks.blocks_for(sequence.num_computed + num_tokens)
        while len(sequence.block_ids) + self.blocks.num_available < needed:
            victim = self._victim()
            self._preempt(victim)
            self._is_short_of_blocks = True
            if victim is sequence:
                return False
        while len(sequence.block_ids) < needed:
            sequence.block_ids.append(self.blocks.allocate())
        return True

    def _victim(self) -> Sequence:
        """Who gives its blocks back: the latest of a flow over its share, else the latest of all.

        The first of all running sequences is never chosen while there is another, so it ends.
        """
        if self._shares is not None:
            for sequence in reversed(self._running):
                if self._shares.is_over(sequence.flow, self._held[sequence.flow]):
                    return sequence
        return self._running[-1]

    def _leave(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._held[sequence.flow] -= 1
        if not self._held[sequence.flow]:
            del self._held[sequence.flow]

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self._release(sequence)
        sequence.phase = SequencePhase.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._queue.push_front(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.blocks.free(sequence.block_ids)
        sequence.block_ids = []
        assert sequence.state_slot is not None
        self._states.free(sequence.state_slot)
        sequence.state_slot = None
        sequence.num_computed = 0
        sequence.num_registered = 0
        sequence.hold_pages({})
        self.slots.unpin(sequence.adapter_pages)

    def _may_admit_any(self) -> bool:
        """Whether there is a place, or somebody who holds too many."""
        if self._is_short_of_blocks:
            return False
        holds_too_many = self._shares is not None and bool(self._shares.over)
        return holds_too_many or not self._room.is_full(len(self._running))

    def _admit(self, head: Sequence) -> bool:
        """Start a waiting sequence, if there is room or room can be made for it."""
        if self._blocked_by not in (None, head.flow):
            return False
        if not self._room.fits(head, self._running) and not self._make_room(head):
            if not self._room.is_full(len(self._running)):
                passed = self._passed_over.get(head.sequence_id, 0) + 1
                self._passed_over[head.sequence_id] = passed
                if passed > _MAX_PASSED_OVER:
                    self._blocked_by = head.flow
            return False
        self._start(head)
        return True

    def _make_room(self, head: Sequence) -> bool:
        """Put back sequences of flows over their share until `head` fits; none if it never does."""
        if self._shares is None:
            return False
        victims: list[Sequence] = []
        for victim in self._shares.victims(head.flow, self._running):
            victims.append(victim)
            if self._room.fits(head, self._running, without=victims):
                for sequence in victims:
                    self._preempt(sequence)
                    self._put_back.add(sequence.sequence_id)
                self._shares = self._current_shares()
                return True
        return False

    def _start(self, sequence: Sequence) -> None:
        self._queue.remove(sequence)
        self._forget_waiting(sequence)
        placed = self.slots.pin(sequence.adapter_pages)
        self._placements.update(placed)
        sequence.hold_pages(self.slots.held_pages(sequence.adapter_pages))
        computed_by = f"{self._base_digest}|{sequence.root_namespace}"
        root = self.blocks.root(computed_by, sequence.cache_salt)
        sequence.chain_keys = sequence.find_chain_keys(self._settings.block_size)
        # Cached blocks have no logits any more: a prompt that is scored is computed.
        known = sequence.token_ids[:1] if sequence.wants_scores else sequence.token_ids
        sequence.block_ids, sequence.chain = self.blocks.match(root, known, sequence.chain_keys)
        sequence.num_registered = len(sequence.block_ids)
        sequence.begin(len(sequence.block_ids) * self._settings.block_size)
        sequence.state_slot = self._states.grant()
        sequence.phase = SequencePhase.RUNNING
        self._running.append(sequence)
        self._held[sequence.flow] += 1

    def _forget_waiting(self, sequence: Sequence) -> None:
        self._passed_over.pop(sequence.sequence_id, None)
        if self._blocked_by == sequence.flow:
            self._blocked_by = None

    def _register_full_blocks(self, sequence: Sequence) -> None:
        size = self._settings.block_size
        while (sequence.num_registered + 1) * size <= sequence.num_computed:
            index = sequence.num_registered
            tokens = sequence.token_ids[index * size : (index + 1) * size]
            if index in sequence.chain_keys:
                sequence.chain = self.blocks.mix(sequence.chain, sequence.chain_keys[index])
            sequence.chain = self.blocks.register(sequence.block_ids[index], sequence.chain, tokens)
            sequence.num_registered += 1
