"""The step loop: a thread of its own that schedules, runs and records, one step after another."""

import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from server.core.batch import ScheduledBatch, StepOutput
from server.core.ports import HostAdapter, ModelRunner
from server.core.request import Beginning, FinishReason
from server.engine.metrics import EngineMetrics
from server.engine.out_of_memory import is_out_of_memory
from server.engine.trial import run_apart
from server.scheduling.plan import SequenceUpdate, StepPlan
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence as ScheduledSequence

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 20.0

_GAUGE_SECONDS = 0.05
"""How old the gauges may be while steps follow one another."""

Deliver = Callable[[Sequence[SequenceUpdate]], None]


@dataclass(frozen=True, slots=True)
class Submit:
    """Take over a sequence, with its adapters in host memory."""

    sequence: ScheduledSequence
    adapters: tuple[HostAdapter, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """End a sequence now: its caller went away, or its text reached a stop string."""

    sequence_id: int
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Retire:
    """Free the pages of adapters that no name means any more, once nobody needs them."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """Put an adapter onto the device and keep it there; `answer` is given the problem, or None."""

    adapter: HostAdapter
    answer: Callable[[str | None], None]


@dataclass(frozen=True, slots=True)
class LetGo:
    """Let kept adapters be evicted like the others."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop; what is still running is aborted."""


Command = Submit | Finish | Retire | Keep | LetGo | Stop


class StepLoop:
    """Owns the scheduler while it runs. Talk to it through `send`; it answers through `deliver`.

    `deliver` is called on the step thread with the updates of one step. When the loop dies, every
    sequence it still has is reported as failed, `is_alive` turns false, and `on_death` is called.
    `clock` gives seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        *,
        deliver: Deliver,
        on_death: Callable[[], None],
        metrics: EngineMetrics,
        device: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._deliver = deliver
        self._on_death = on_death
        self._clock = clock
        self._metrics = metrics
        self._device = device
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._adapters_of: dict[int, tuple[HostAdapter, ...]] = {}
        self._thread = threading.Thread(target=self._run, name="step-loop", daemon=True)
        self._is_alive = False
        self._has_ended = False
        self._step_started_at: float | None = None
        self._resident: tuple[str, ...] = ()
        self._counted = (0, 0, 0)
        self._gauges_set_at = 0.0
        self._submitted: dict[int, tuple[ScheduledSequence, float]] = {}  # until the first step
        self._beginnings: dict[int, Beginning] = {}  # until the first update tells it

    @property
    def is_alive(self) -> bool:
        return self._is_alive

    @property
    def resident_adapters(self) -> tuple[str, ...]:
        """Digests in the bank after the last step."""
        return self._resident

    def start(self) -> None:
        self._is_alive = True
        self._thread.start()

    @property
    def step_started_at(self) -> float | None:
        """When the present step began, by the clock; None between steps."""
        return self._step_started_at

    @property
    def step_age_seconds(self) -> float:
        """How long the present step has been running; 0 between steps."""
        started = self._step_started_at
        return 0.0 if started is None else self._clock() - started

    def send(self, command: Command) -> None:
        """Hand over a command; it takes effect before the next step."""
        self._inbox.put(command)
        if self._has_ended:  # Nobody will take it from there any more.
            self._refuse_inbox()

    def join(self) -> None:
        """Wait for the loop's end (after a `Stop`), but not for a step that never ends."""
        self._thread.join(_JOIN_SECONDS)

    def give_up(self, reason: str) -> None:
        """Fail everything as if the loop had ended, which a step that hangs keeps it from.

        Called on another thread. What the step gives back, if it ends after all, reaches nobody.
        """
        self._is_alive = False
        self._has_ended = True
        self._abandon(reason)
        self._refuse_inbox()

    def where(self) -> str:
        """The step thread's stack; empty when it runs no more."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def _run(self) -> None:
        was_stopped = False
        try:
            while self._take_commands():
                self._step()
            was_stopped = True
        except Exception:
            logger.exception("the step loop died")
        finally:
            self._is_alive = False
            self._has_ended = True
            self._step_started_at = None
            self._abandon("the engine stopped")
            self._refuse_inbox()
            if not was_stopped:
                self._on_death()

    def _take_commands(self) -> bool:
        """Obey all waiting commands, blocking while there is nothing to run; False to end."""
        while True:
            try:
                command = self._inbox.get(block=not self._scheduler.has_work)
            except queue.Empty:
                return True
            match command:
                case Submit(sequence, adapters):
                    self._adapters_of[sequence.sequence_id] = adapters
                    self._submitted[sequence.sequence_id] = (sequence, self._clock())
                    self._scheduler.add(sequence)
                case Finish(sequence_id, reason):
                    if self._scheduler.finish(sequence_id, reason):
                        self._set_gauges()  # no step may follow
                        self._publish([SequenceUpdate(sequence_id, None, reason)])
                case Retire(digests):
                    for digest in digests:
                        self._scheduler.slots.retire(digest)
                    self._set_gauges()
                case Keep(adapter, answer):
                    self._step_started_at = self._clock()
                    problem = self._keep(adapter)
                    self._step_started_at = None
                    self._set_gauges()  # whoever is answered finds it where it is now
                    answer(problem)
                case LetGo(digests):
                    for digest in digests:
                        self._scheduler.slots.let_go(digest)
                case Stop():
                    return False

    def _keep(self, adapter: HostAdapter) -> str | None:
        slots, digest, num_pages = self._scheduler.slots, adapter.digest, adapter.traits.num_pages
        if not slots.can_keep(digest, num_pages):
            return (
                f"it takes {num_pages} pages of the device's bank, and {slots.num_kept_pages} of "
                f"the {slots.max_kept_pages} that pins may take are pinned already: unpin another, "
                "or raise the setting adapter_bank_pages"
            )
        pages = slots.keep(digest, num_pages)
        if pages is None:
            return None
        try:
            self._runner.place_adapter(pages, adapter)
        except Exception:  # the boundary: the failure of this adapter only
            logger.exception("adapter %s can't be placed on the device", digest)
            slots.let_go(digest)
            slots.discard(digest)
            return "it can't be placed on the device; the server's log says why"
        return None

    def _step(self) -> None:
        self._step_started_at = self._clock()
        plan = self._scheduler.schedule()
        if plan is None:
            # Nothing fits although something waits: only possible while others hold what it needs.
            raise RuntimeError("the scheduler has work but can't run any of it")
        start = self._clock()
        self._observe_queue(plan.batch, start)
        updates = self._place(plan)
        batch = plan.batch.without(update.sequence_id for update in updates)
        if batch.rows:
            updates += self._execute(plan, batch)
        self._step_started_at = None
        now = self._clock()
        self._observe(batch, now - start, now)
        self._publish(updates)

    def _execute(self, plan: StepPlan, batch: ScheduledBatch) -> list[SequenceUpdate]:
        try:
            output = self._runner.execute(batch)
        except Exception as error:  # the boundary: a failed step is its requests' failure only
            if is_out_of_memory(error) and self._scheduler.shrink(batch):
                logger.warning(
                    "no memory for a step of %d rows and %d tokens; again with half of it",
                    len(batch.rows),
                    batch.num_tokens,
                )
                self._metrics.out_of_memory.inc()
                return []
            logger.exception("a step over %d rows failed", len(batch.rows))
            return self._run_apart(plan, batch)
        return self._record(batch, output)

    def _run_apart(self, plan: StepPlan, batch: ScheduledBatch) -> list[SequenceUpdate]:
        """Run the rows of a failed step in smaller steps, so that only the guilty ones fail.

        When none of them runs the runner itself is broken: then all of them fail.
        """
        trial = run_apart(self._execute_again, batch)
        without_memory = [part for part in trial.unfinished if not self._scheduler.shrink(part)]
        if not trial.outputs and len(without_memory) == len(trial.unfinished):
            for placement in plan.placements:
                self._scheduler.forget_placement(placement.digest)
            return self._scheduler.fail_batch(batch, "the step failed; the server's log says why")
        updates: list[SequenceUpdate] = []
        for part, output in trial.outputs:
            updates += self._record(part, output)
        for part in without_memory:
            updates += self._scheduler.fail_batch(part, "the device has no memory for this request")
        for row, error in trial.guilty:
            logger.error("sequence %d alone made the step fail", row.sequence_id, exc_info=error)
        return updates + self._scheduler.fail_batch(
            ScheduledBatch(tuple(row for row, _ in trial.guilty)),
            "the model failed on this request alone; the server's log says why",
        )

    def _execute_again(self, batch: ScheduledBatch) -> StepOutput:
        self._step_started_at = self._clock()  # a step of its own for whoever watches
        return self._runner.execute(batch)

    def _record(self, batch: ScheduledBatch, output: StepOutput) -> list[SequenceUpdate]:
        self._metrics.model_seconds.inc(output.model_seconds)
        return self._scheduler.update(batch, output)

    def _place(self, plan: StepPlan) -> list[SequenceUpdate]:
        """Fill the granted pages; returns the ends of sequences whose adapter can't be placed."""
        failed: list[SequenceUpdate] = []
        if not plan.placements:
            return failed
        held = {a.digest: a for adapters in self._adapters_of.values() for a in adapters}
        for placement in plan.placements:
            adapter = held.get(placement.digest)
            if adapter is None:
                # Its only user went away in the meantime, so nobody reads these pages.
                self._scheduler.forget_placement(placement.digest)
                continue
            try:
                self._runner.place_adapter(placement.pages, adapter)
            except Exception:  # the boundary: it is the failure of its users only
                logger.exception("adapter %s can't be placed on the device", placement.digest)
                reason = "its adapter can't be placed on the device; the server's log says why"
                failed += self._scheduler.fail_adapter(placement.digest, reason)
        self._resident = self._scheduler.slots.resident()
        return failed

    def _publish(self, updates: Sequence[SequenceUpdate]) -> None:
        if self._beginnings:
            updates = [
                replace(u, beginning=self._beginnings.pop(u.sequence_id, None)) for u in updates
            ]
        for update in updates:
            if update.finish_reason is not None:
                self._adapters_of.pop(update.sequence_id, None)
                self._submitted.pop(update.sequence_id, None)
        if updates:
            self._deliver(updates)

    def _abandon(self, reason: str) -> None:
        remaining = list(self._adapters_of)
        self._adapters_of.clear()
        updates = [SequenceUpdate(i, None, FinishReason.ERROR, reason) for i in remaining]
        if updates:
            self._deliver(updates)

    def _refuse_inbox(self) -> None:
        """Fail what came too late to be taken over."""
        while True:
            try:
                command = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(command, Keep):
                command.answer("the engine stopped")
            if isinstance(command, Submit):
                reason, sequence_id = "the engine stopped", command.sequence.sequence_id
                self._deliver([SequenceUpdate(sequence_id, None, FinishReason.ERROR, reason)])

    def _observe_queue(self, batch: ScheduledBatch, now: float) -> None:
        if not self._submitted:
            return
        for row in batch.rows:
            if (submitted := self._submitted.pop(row.sequence_id, None)) is not None:
                sequence, submitted_at = submitted
                queued_seconds = now - submitted_at
                self._metrics.queue_time.observe(queued_seconds)
                self._beginnings[row.sequence_id] = Beginning(
                    queued_seconds, sequence.num_cached_tokens
                )

    def _set_gauges(self) -> None:
        metrics, scheduler = self._metrics, self._scheduler
        metrics.num_running.set(scheduler.num_running)
        metrics.num_waiting.set(scheduler.num_waiting)
        metrics.kv_usage.set(scheduler.blocks.num_held / scheduler.blocks.num_blocks)
        metrics.slots_used.set(scheduler.slots.num_used_pages)
        metrics.slots_pinned.set(scheduler.slots.num_pinned)
        self._resident = scheduler.slots.resident()

    def _observe(self, batch: ScheduledBatch, seconds: float, now: float) -> None:
        metrics, scheduler = self._metrics, self._scheduler
        metrics.step_seconds.observe(seconds)
        is_decode = batch.num_tokens == len(batch.rows)
        (metrics.decode_seconds if is_decode else metrics.prefill_seconds).observe(seconds)
        metrics.batch_size.observe(len(batch.rows))
        metrics.adapters_per_step.observe(scheduler.slots.num_pinned)
        if now - self._gauges_set_at > _GAUGE_SECONDS or not scheduler.has_work:
            self._gauges_set_at = now
            self._set_gauges()
        counted = (
            scheduler.blocks.num_prefix_queries,
            scheduler.blocks.num_prefix_hits,
            scheduler.num_preemptions,
        )
        if counted != self._counted:
            counters = (metrics.prefix_queries, metrics.prefix_hits, metrics.preemptions)
            for counter, now, before in zip(counters, counted, self._counted, strict=True):
                counter.inc(now - before)
            self._counted = counted
