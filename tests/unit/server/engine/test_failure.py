"""What happens when something breaks, or takes too long: one request pays, and is told."""

import asyncio
from collections.abc import Callable

import pytest

from server.core.batch import ScheduledBatch, StepOutput
from server.core.errors import DeadlineExceededError, EngineDeadError, SlowReaderError
from server.core.request import FinishReason, GenerationRequest
from server.core.stack import BASE_STACK
from server.engine import engine as engine_module
from server.engine.out_of_memory import is_out_of_memory
from tests.unit.server.engine.test_engine import (
    Harness,
    collect,
    expected_text,
    request,
    running,
    stack,
    text_of,
)


def failing(
    harness: Harness, error: Callable[[ScheduledBatch], Exception | None]
) -> list[ScheduledBatch]:
    """Let the runner raise what `error` says for a batch; returns the batches that failed."""
    execute, failed = harness.runner.execute, []

    def execute_or_fail(batch: ScheduledBatch) -> StepOutput:
        if (raised := error(batch)) is not None:
            failed.append(batch)
            raise raised
        return execute(batch)

    harness.runner.execute = execute_or_fail  # type: ignore[method-assign]
    return failed


async def until_idle(harness: Harness) -> None:
    """Wait until the scheduler has nothing left."""
    async with asyncio.timeout(60):
        while harness.scheduler.has_work:  # noqa: ASYNC110 - another thread empties it
            await asyncio.sleep(0.005)


class OutOfMemoryError(RuntimeError):
    """Called as torch's."""


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_failures(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


async def test_without_memory_steps_shrink_nobody_fails_and_they_grow_again() -> None:
    async with running() as harness:
        is_short = True

        def error(batch: ScheduledBatch) -> Exception | None:
            too_large = is_short and (batch.num_tokens > 3 or len(batch.rows) > 1)
            return OutOfMemoryError("CUDA out of memory") if too_large else None

        failed = failing(harness, error)
        wanted = [
            request((8, 9, 10, 11, 8, i + 8), stack(name), max_tokens=12, ignore_eos=True)
            for i, name in enumerate(("a", "b", "a", "c"))
        ]
        answers = await asyncio.gather(*(collect(harness.engine, w) for w in wanted))
        for deltas, one in zip(answers, wanted, strict=True):
            assert deltas[-1].finish_reason is FinishReason.LENGTH
            assert len([d for d in deltas if d.num_tokens]) == 12
            assert text_of(deltas) == text_of(await collect(harness.engine, one))
        assert failed
        assert harness.metrics.out_of_memory._value.get() == len(failed)
        assert harness.scheduler.limits.num_shrinks == len(failed)
        is_short = False
        for _ in range(12):
            await collect(harness.engine, request(max_tokens=12, ignore_eos=True))
        assert harness.scheduler.limits.are_full


async def test_one_token_that_has_no_memory_fails_its_sequence_only() -> None:
    async with running() as harness:

        def error(batch: ScheduledBatch) -> Exception | None:
            return MemoryError() if any(50 in row.token_ids for row in batch.rows) else None

        failing(harness, error)
        bad, good = request((50,), max_tokens=4), request(max_tokens=8)
        failed, fine = await asyncio.gather(
            collect(harness.engine, bad), collect(harness.engine, good)
        )
        assert failed[-1].finish_reason is FinishReason.ERROR
        assert text_of(fine) == expected_text(good)


async def test_only_the_guilty_rows_of_a_failed_step_fail() -> None:
    async with running() as harness:

        def error(batch: ScheduledBatch) -> Exception | None:
            guilty = any(50 in row.token_ids or 51 in row.token_ids for row in batch.rows)
            return IndexError("a token beyond the embedding") if guilty else None

        failed = failing(harness, error)
        prompts = [(8, 9, 10), (50, 8), (8, 9, 11), (8, 51)]
        stacks = [stack("a"), stack("a"), BASE_STACK, stack("b")]
        wanted = [
            request(prompt, one, max_tokens=8, ignore_eos=True)
            for prompt, one in zip(prompts, stacks, strict=True)
        ]
        answers = await asyncio.gather(*(collect(harness.engine, w) for w in wanted))
        for index in (0, 2):
            assert answers[index][-1].finish_reason is FinishReason.LENGTH
            alone = await collect(harness.engine, wanted[index])
            assert text_of(answers[index]) == text_of(alone)
        for index in (1, 3):
            assert answers[index][-1].finish_reason is FinishReason.ERROR
        assert max(len(batch.rows) for batch in failed) > 1, "they shared a step"
        assert harness.engine.is_ready


async def test_a_runner_that_runs_nothing_fails_the_step_whole_and_serves_again() -> None:
    async with running() as harness:
        is_broken = True
        failed = failing(harness, lambda _: RuntimeError("broken") if is_broken else None)
        wanted = [request((8, 9, i + 8), stack("a"), max_tokens=4) for i in range(4)]
        answers = await asyncio.gather(*(collect(harness.engine, w) for w in wanted))
        for deltas in answers:
            assert deltas[-1].finish_reason is FinishReason.ERROR
            assert deltas[-1].error == "the step failed; the server's log says why"
        assert len(failed) <= 4 * 8, "at most twice as many steps as rows"
        is_broken = False
        assert text_of(await collect(harness.engine, wanted[0])) == expected_text(wanted[0])


async def test_a_deadline_ends_the_request_and_frees_what_it_held() -> None:
    async with running(step_seconds=0.02) as harness:
        late = GenerationRequest(
            "r", (8, 9), request(max_tokens=50, ignore_eos=True).sampling, timeout_seconds=0.1
        )
        with pytest.raises(DeadlineExceededError, match=r"after 0\.1 s"):
            await collect(harness.engine, late)
        assert text_of(await collect(harness.engine, request())) == expected_text(request())
        value = harness.registry.get_sample_value(
            "switchyard_requests_total", {"adapter": "base", "finish_reason": "abort"}
        )
        assert value == 1


async def test_a_deadline_counts_while_the_adapter_is_loaded() -> None:
    async with running() as harness:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def load(_adapter: object) -> object:
            started.set()
            await go_on.wait()
            return None

        harness.cache.get = load  # type: ignore[method-assign,assignment]
        late = GenerationRequest("r", (8, 9), request().sampling, stack("a"), timeout_seconds=0.05)
        with pytest.raises(DeadlineExceededError):
            await collect(harness.engine, late)
        assert started.is_set()


async def test_a_reader_that_stops_reading_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_MAX_UNREAD", 5)
    async with running() as harness:
        deltas = harness.engine.generate(request(max_tokens=40, ignore_eos=True))
        await anext(deltas)
        await until_idle(harness)
        assert harness.scheduler.blocks.num_held == 0
        read = []

        async def read_on() -> None:
            async for delta in deltas:
                read.append(delta)

        with pytest.raises(SlowReaderError, match="weren't read"):
            await read_on()
        assert len(read) < 39


async def test_a_dead_step_loop_is_told_to_everybody() -> None:
    harness = Harness()
    harness.engine.start()

    def die() -> None:
        raise AssertionError("a bug of ours")

    harness.scheduler.schedule = die  # type: ignore[method-assign,assignment]
    deltas = await collect(harness.engine, request())
    assert deltas[-1].finish_reason is FinishReason.ERROR
    async with asyncio.timeout(60):
        await harness.engine.wait_dead()
    assert not harness.engine.is_ready
    with pytest.raises(EngineDeadError):
        await collect(harness.engine, request())
    await harness.engine.stop()


async def test_stopping_is_not_dying() -> None:
    harness = Harness()
    harness.engine.start()
    await harness.engine.stop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await harness.engine.wait_dead()


async def test_what_reaches_the_loop_after_its_end_is_refused() -> None:
    harness = Harness()
    harness.engine.start()
    await harness.engine.stop()
    harness.engine._steps._is_alive = True  # As a request sees it that was checked just before.
    deltas = await collect(harness.engine, request())
    assert deltas[-1].finish_reason is FinishReason.ERROR


async def test_abort_all_ends_everything() -> None:
    async with running(step_seconds=0.01) as harness:
        streams = [harness.engine.generate(request(max_tokens=50, ignore_eos=True)) for _ in "ab"]
        for stream in streams:
            await anext(stream)
        harness.engine.abort_all()
        for stream in streams:
            rest = [delta async for delta in stream]
            assert rest[-1].finish_reason is FinishReason.ABORT


async def test_a_caller_that_goes_away_is_gone_within_a_step() -> None:
    async with running(step_seconds=0.02) as harness:
        stream = harness.engine.generate(request(max_tokens=50, ignore_eos=True))
        await anext(stream)
        num_before = len(harness.runner.batches)
        await stream.aclose()  # type: ignore[attr-defined]
        await until_idle(harness)
        assert len(harness.runner.batches) <= num_before + 2  # One may run, one may have begun.
