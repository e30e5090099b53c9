"""The engine as the api sees it: requests in, streams of text out."""

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

from server.core.errors import (
    AdapterTooLargeError,
    DeadlineExceededError,
    EngineDeadError,
    EngineStalledError,
    PromptTooLongError,
    SlowReaderError,
    SwitchyardError,
)
from server.core.ports import ChatTokenizer, HostAdapter, ModelRunner
from server.core.request import FinishReason, GenerationDelta, GenerationRequest
from server.core.settings import SchedulerSettings
from server.engine.admission import Admission
from server.engine.answer_text import AnswerText
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.in_flight import Choice, InFlight
from server.engine.metrics import EngineMetrics
from server.engine.stack_check import check_stack
from server.engine.step_loop import Finish, Keep, LetGo, Retire, StepLoop, Stop, Submit
from server.scheduling.plan import SequenceUpdate
from server.scheduling.scheduler import Scheduler
from server.scheduling.sequence import Sequence as ScheduledSequence

logger = logging.getLogger(__name__)

_MAX_UNREAD = 512
"""Pieces of one choice that may wait for their reader."""

_STALLED_SECONDS = 120.0
"""A step that takes so long may not end: the server isn't ready then."""

_RETIRING_SECONDS = 60.0
"""How long requests may still come for an adapter that their names meant a moment ago."""


class Engine:
    """Implements `core.ports.GenerationEngine`. Lives on one event loop; `start` it there."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        tokenizer: ChatTokenizer,
        host_cache: HostAdapterCache,
        *,
        settings: SchedulerSettings,
        metrics: EngineMetrics,
        device: str,
        clock: Callable[[], float] = time.perf_counter,
        stalled_seconds: float = _STALLED_SECONDS,
    ) -> None:
        self._stalled_seconds = stalled_seconds
        self._tokenizer = tokenizer
        self._host_cache = host_cache
        self._settings = settings
        self._metrics = metrics
        self._runner = runner
        self._device = device
        self._steps = StepLoop(
            scheduler,
            runner,
            deliver=self._deliver_soon,
            on_death=self._die_soon,
            metrics=metrics,
            device=device,
            clock=clock,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._choices: dict[int, Choice] = {}
        self._ids = itertools.count()
        self._num_users: Counter[str] = Counter()
        self._retired: dict[str, float] = {}
        self._admission = Admission(settings.max_num_sequences, settings.max_waiting)
        self._died = asyncio.Event()
        metrics.slots_total.set(settings.num_adapter_pages)

    @property
    def is_ready(self) -> bool:
        """Whether steps are made: not when the loop is dead, nor while one step never ends."""
        return self._steps.is_alive and self._steps.step_age_seconds < self._stalled_seconds

    def start(self) -> None:
        """Start stepping. Call it on the event loop that will call `generate`."""
        self._loop = asyncio.get_running_loop()
        self._steps.start()

    async def stop(self) -> None:
        """Abort what runs, end the step thread, free host memory."""
        self._steps.send(Stop())
        await asyncio.to_thread(self._steps.join)
        self._host_cache.close()

    def abort_all(self) -> None:
        """End every request now; each caller is told that the server aborted it."""
        for sequence_id in list(self._choices):
            self._steps.send(Finish(sequence_id, FinishReason.ABORT))

    @property
    def step_started_at(self) -> float | None:
        """When the present step began, by the clock; None between steps."""
        return self._steps.step_started_at

    def give_up(self, reason: str) -> str:
        """From another thread, while a step hangs: fail everything and accept nothing more.

        Returns where the step is. It can't be ended, so nothing but the process's end is left.
        """
        self._steps.give_up(reason)
        return self._steps.where()

    async def wait_dead(self) -> None:
        """Return when the step loop has died; never when it was stopped."""
        await self._died.wait()

    def retire_adapters(self, digests: Collection[str], meant: Collection[str] = ()) -> None:
        """Free the memory of adapters that no name means any more; `meant` are meant (again).

        Requests that run on them finish on them; the memory goes with the last of these.
        """
        for digest in meant:
            self._retired.pop(digest, None)
        now = time.monotonic()
        self._retired = {d: until for d, until in self._retired.items() if until > now}
        self._retired |= dict.fromkeys(digests, now + _RETIRING_SECONDS)
        self._free_retired(digests)

    def _free_retired(self, digests: Iterable[str]) -> None:
        for digest in digests:
            if digest in self._retired and not self._num_users[digest]:
                self._host_cache.drop(digest)
                self._steps.send(Retire((digest,)))

    @property
    def resident_adapters(self) -> tuple[str, ...]:
        """Digests of the adapters in the device bank."""
        return self._steps.resident_adapters

    async def keep_adapter(self, adapter: HostAdapter) -> str | None:
        """Put an adapter onto the device and keep it there; returns why not, where it can't be."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | None] = loop.create_future()

        def settle(problem: str | None) -> None:
            if not answer.done():
                answer.set_result(problem)

        def tell(problem: str | None) -> None:
            loop.call_soon_threadsafe(settle, problem)

        self._steps.send(Keep(adapter, tell))
        return await answer

    def let_adapters_go(self, digests: Collection[str]) -> None:
        """Let kept adapters be evicted from the device again."""
        self._steps.send(LetGo(tuple(digests)))

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date (before a scrape)."""
        components = dict(self._runner.memory_bytes())
        device = self._runner.device_memory_bytes()
        host = self._host_cache.num_bytes
        known = sum(components.values()) + (host if self._device == "cpu" else 0)
        components["other"] = max(0, device["used"] - known)
        self._metrics.set_memory(self._device, components)
        self._metrics.set_memory("cpu", {"adapter_host_cache": host})
        for kind, num_bytes in device.items():
            self._metrics.device_memory[kind].labels(self._device).set(num_bytes)
        on_device = self._steps.resident_adapters
        self._host_cache.forget_versions(on_device)
        resident = (self._host_cache.version_of(d) for d in on_device)
        self._metrics.set_residency(self._host_cache.sizes(), [v for v in resident if v])

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationDelta]:
        """See `core.ports.GenerationEngine.generate`."""
        self._check(request)
        self._admission.enter(request.tenant, request.stack.label, request.num_choices)
        members = request.stack.members
        in_flight = InFlight(
            request.stack.label,
            members[0].adapter if len(members) == 1 else None,
            request.num_choices,
            time.perf_counter(),
        )
        digests = {member.adapter.digest for member in members}
        started: list[int] = []
        timer = self._start_timer(request, in_flight)
        self._num_users.update(digests)
        try:
            adapters = await self._load(request)
            check_stack(request, [adapter.traits for adapter in adapters], self._settings)
            started = self._submit(request, adapters, in_flight)
            while in_flight.open_choices:
                delta = await in_flight.deltas.get()
                if isinstance(delta, SwitchyardError):
                    raise delta
                if delta.finish_reason is not None:
                    in_flight.open_choices -= 1
                yield delta
        finally:
            if timer is not None:
                timer.cancel()
            self._admission.leave(request.tenant, request.stack.label, request.num_choices)
            self._abort(started)
            self._num_users -= Counter(digests)  # leaves no zeros behind
            self._free_retired(digests)

    def _check(self, request: GenerationRequest) -> None:
        if not self._steps.is_alive:
            raise EngineDeadError("the engine isn't running")
        if not self.is_ready:
            raise EngineStalledError(
                f"a step has run for {self._steps.step_age_seconds:.0f} s and nothing new is "
                "taken before it ends; try again later, or send it to another server"
            )
        num_prompt, window = len(request.prompt_token_ids), self._settings.max_model_len
        if num_prompt + 1 > window:
            raise PromptTooLongError(
                f"the prompt has {num_prompt} tokens; this model's window is {window} tokens, "
                "prompt and answer together. Shorten the prompt",
                "messages",
            )
        for member in request.stack.members:
            rank = member.adapter.rank
            if rank > self._settings.max_lora_rank:
                raise AdapterTooLargeError(
                    f"adapter {member.adapter.label} has rank {rank}; this server takes up to "
                    f"{self._settings.max_lora_rank} (setting max_lora_rank)",
                    "model",
                )

    async def _load(self, request: GenerationRequest) -> tuple[HostAdapter, ...]:
        if not request.stack.members:
            return ()
        loads = [self._host_cache.get(member.adapter) for member in request.stack.members]
        try:
            async with asyncio.timeout(request.timeout_seconds) as limit:
                return tuple(await asyncio.gather(*loads))
        except TimeoutError as error:
            if limit.expired():
                raise _too_late(request) from error
            raise

    def _start_timer(
        self, request: GenerationRequest, in_flight: InFlight
    ) -> asyncio.TimerHandle | None:
        if request.timeout_seconds is None:
            return None
        return asyncio.get_running_loop().call_later(
            request.timeout_seconds, lambda: self._end(in_flight, _too_late(request))
        )

    def _end(self, in_flight: InFlight, error: SwitchyardError) -> None:
        """End a whole request early; its caller gets `error` behind what it hasn't read yet."""
        ids = [i for i, choice in self._choices.items() if choice.request is in_flight]
        self._abort(ids)
        in_flight.deltas.put(error)

    def _abort(self, sequence_ids: Sequence[int]) -> None:
        """End those of the sequences that still run; their callers expect nothing more."""
        now = time.perf_counter()
        for sequence_id in sequence_ids:
            if (choice := self._choices.pop(sequence_id, None)) is not None:
                self._steps.send(Finish(sequence_id, FinishReason.ABORT))
                self._observe_end(choice, FinishReason.ABORT, now)

    def _submit(
        self,
        request: GenerationRequest,
        adapters: tuple[HostAdapter, ...],
        in_flight: InFlight,
    ) -> list[int]:
        sampling = request.sampling
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        started = []
        for index in range(request.num_choices):
            sequence_id = next(self._ids)
            sequence = ScheduledSequence(
                sequence_id,
                request.prompt_token_ids,
                sampling,
                request.stack,
                seed=seed + index,
                max_len=self._settings.max_model_len,
                tenant=request.tenant,
                cache_salt=request.cache_salt,
                weight=request.weight,
                traits={adapter.digest: adapter.traits for adapter in adapters},
                matcher=sampling.grammar.matcher() if sampling.grammar is not None else None,
            )
            stream = self._tokenizer.stream(
                request.prompt_token_ids, skips_special_tokens=sampling.skips_special_tokens
            )
            self._choices[sequence_id] = Choice(index, AnswerText(stream, sampling), in_flight)
            in_flight.open_choices += 1
            started.append(sequence_id)
            self._steps.send(Submit(sequence, adapters))
        self._metrics.count_prompt(request.stack.label, len(request.prompt_token_ids))
        return started

    def _deliver_soon(self, updates: Sequence[SequenceUpdate]) -> None:
        """On the step thread: hand a step's updates to the event loop, all at once."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, updates)
        except RuntimeError:
            logger.debug("the event loop is closed; %d updates dropped", len(updates))

    def _die_soon(self) -> None:
        """On the step thread: the loop has died."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # The event loop is closed: nobody waits.
            self._loop.call_soon_threadsafe(self._died.set)

    def _deliver(self, updates: Sequence[SequenceUpdate]) -> None:
        now = time.perf_counter()
        num_drawn: Counter[str] = Counter()
        for update in updates:
            choice = self._choices.get(update.sequence_id)
            if choice is None:
                continue
            if update.token_id is not None:
                num_drawn[choice.request.label] += 1
                self._observe_token(choice, now)
            try:
                delta = self._delta(choice, update)
            except Exception:  # the boundary: one request's text must not stop the others'
                logger.exception("sequence %d can't be detokenised", update.sequence_id)
                delta = GenerationDelta(
                    choice.index, "", 0, FinishReason.ERROR, "its text can't be decoded"
                )
                self._steps.send(Finish(update.sequence_id, FinishReason.ERROR))
            if delta.finish_reason is not None:
                del self._choices[update.sequence_id]
                self._observe_end(choice, delta.finish_reason, now)
            unread = choice.request.deltas
            unread.put(delta)
            if len(unread) > _MAX_UNREAD * choice.request.num_choices:
                self._end(
                    choice.request,
                    SlowReaderError(
                        f"{len(unread)} pieces of this answer weren't read; read faster, or ask "
                        "for it without stream"
                    ),
                )
        for label, count in num_drawn.items():
            self._metrics.count_drawn(label, count)

    def _delta(self, choice: Choice, update: SequenceUpdate) -> GenerationDelta:
        piece = choice.text.push(update)
        if piece.finish_reason is not None and update.finish_reason is None:
            self._steps.send(Finish(update.sequence_id, piece.finish_reason))
        return GenerationDelta(
            choice.index,
            piece.text,
            1 if update.token_id is not None else 0,
            piece.finish_reason,
            update.error,
            piece.stop_reason,
            piece.scores,
            beginning=update.beginning,
        )

    def _observe_token(self, choice: Choice, now: float) -> None:
        if choice.last_token_at is None:
            label = self._metrics.adapter_label(choice.request.label)
            ttft = now - choice.request.accepted_at
            self._metrics.time_to_first_token.labels(label).observe(ttft)
        else:
            self._metrics.inter_token_latency.observe(now - choice.last_token_at)
        choice.last_token_at = now

    def _observe_end(self, choice: Choice, reason: FinishReason, now: float) -> None:
        label = self._metrics.adapter_label(choice.request.label)
        self._metrics.requests.labels(label, reason.value).inc()
        seconds = now - choice.request.accepted_at
        self._metrics.e2e_latency.observe(seconds)
        if choice.request.adapter is not None:
            self._metrics.observe_version(choice.request.adapter, reason.value, seconds)


def _too_late(request: GenerationRequest) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"the answer wasn't complete after {request.timeout_seconds:.3g} s; give it more time "
        "(header x-request-timeout, setting request_timeout_seconds), or ask for fewer tokens"
    )
