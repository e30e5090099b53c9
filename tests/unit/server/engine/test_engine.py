"""The engine over a fake model: every request ends exactly once, and nothing is left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.core.errors import (
    AdapterTooLargeError,
    AdapterUnreadableError,
    EngineDeadError,
    OverloadedError,
    PromptTooLongError,
)
from server.core.request import FinishReason, GenerationDelta, GenerationRequest, SamplingParams
from server.core.settings import SchedulerSettings
from server.core.stack import BASE_STACK, AdapterStack, AdapterVersion, StackMember
from server.engine.engine import Engine
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.metrics import EngineMetrics
from server.scheduling.scheduler import Scheduler
from tests.fakes.runner import FakeLoader, FakeRunner, expected_tokens
from tests.fakes.text import FakeTokenizer

SETTINGS = SchedulerSettings(
    max_num_sequences=4,
    max_batch_tokens=16,
    max_waiting=8,
    max_model_len=60,
    block_size=4,
    num_blocks=60,
    num_adapter_pages=6,
    max_lora_rank=24,
)
EOS = frozenset({7})


class Harness:
    """An engine, and its parts for inspection."""

    def __init__(self, *, fail_on: int | None = None, step_seconds: float = 0.0) -> None:
        self.registry = CollectorRegistry()
        self.metrics = EngineMetrics(self.registry)
        self.scheduler = Scheduler(SETTINGS, eos_token_ids=EOS, base_digest="base")
        self.runner = FakeRunner(SETTINGS.block_size, fail_on=fail_on, step_seconds=step_seconds)
        self.loader = FakeLoader()
        self.cache = HostAdapterCache(self.loader, max_bytes=250, metrics=self.metrics)
        self.engine = Engine(
            self.scheduler,
            self.runner,
            FakeTokenizer(),
            self.cache,
            settings=SETTINGS,
            metrics=self.metrics,
            device="cpu",
        )

    def assert_clean(self) -> None:
        self.scheduler.check_integrity()
        assert self.scheduler.blocks.num_held == 0
        assert self.scheduler.slots.num_pinned == 0
        assert not self.scheduler.has_work


@asynccontextmanager
async def running(**options: float) -> AsyncIterator[Harness]:
    harness = Harness(**options)  # type: ignore[arg-type]
    harness.engine.start()
    try:
        yield harness
    finally:
        await harness.engine.stop()
        harness.assert_clean()


def adapter(name: str, rank: int = 8) -> AdapterVersion:
    return AdapterVersion(name, 1, f"digest-{name}", rank, Path("none"))


def stack(*names: str) -> AdapterStack:
    return AdapterStack(tuple(StackMember(adapter(name)) for name in names))


def request(
    prompt: tuple[int, ...] = (8, 9, 10), stack: AdapterStack = BASE_STACK, **options: object
) -> GenerationRequest:
    num_choices = int(str(options.pop("num_choices", 1)))
    sampling = SamplingParams(**{"max_tokens": 10, "seed": 5, **options})  # type: ignore[arg-type]
    return GenerationRequest("r", prompt, sampling, stack, num_choices)


async def collect(engine: Engine, wanted: GenerationRequest) -> list[GenerationDelta]:
    return [delta async for delta in engine.generate(wanted)]


def text_of(deltas: list[GenerationDelta], choice: int = 0) -> str:
    return "".join(d.text for d in deltas if d.choice == choice)


def expected_text(wanted: GenerationRequest, choice: int = 0) -> str:
    seed = (wanted.sampling.seed or 0) + choice
    tokens = expected_tokens(
        wanted.prompt_token_ids, wanted.stack, seed, wanted.sampling.max_tokens, EOS
    )
    return FakeTokenizer().decode(tokens)


async def test_many_requests_at_once_each_get_their_own_text() -> None:
    async with running() as harness:
        stacks = [BASE_STACK, stack("a"), stack("a", "b"), stack("c")]
        wanted = [request((8, 9, 8 + i % 5), stacks[i % 4]) for i in range(10)]
        answers = await asyncio.gather(*(collect(harness.engine, w) for w in wanted))
        for answer, want in zip(answers, wanted, strict=True):
            assert text_of(answer) == expected_text(want)
            assert [d.finish_reason is not None for d in answer].count(True) == 1
            assert answer[-1].finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
        assert sorted(set(harness.loader.loads)) == ["digest-a", "digest-b", "digest-c"]


async def test_choices_draw_from_consecutive_seeds() -> None:
    async with running() as harness:
        wanted = request(num_choices=3)
        deltas = await collect(harness.engine, wanted)
        for choice in range(3):
            assert text_of(deltas, choice) == expected_text(wanted, choice)


async def test_a_stop_string_ends_the_text_before_it() -> None:
    async with running() as harness:
        full = expected_text(request())
        stop = full[4:9]
        deltas = await collect(harness.engine, request(stop=(stop, "never")))
        assert text_of(deltas) == full[: full.index(stop)]
        assert deltas[-1].finish_reason is FinishReason.STOP


async def test_leaving_early_aborts_within_a_step() -> None:
    async with running(step_seconds=0.01) as harness:
        stream = harness.engine.generate(request(stack=stack("a"), max_tokens=50, ignore_eos=True))
        await anext(stream)
        await stream.aclose()
        num_steps = len(harness.runner.batches)
        await asyncio.sleep(0.1)
        assert not harness.scheduler.has_work
        assert len(harness.runner.batches) <= num_steps + 1
        assert harness.scheduler.blocks.num_held == 0


async def test_a_broken_adapter_fails_its_own_request_only() -> None:
    async with running() as harness:
        good, bad = await asyncio.gather(
            collect(harness.engine, request()),
            collect(harness.engine, request(stack=stack("broken"))),
            return_exceptions=True,
        )
        assert isinstance(bad, AdapterUnreadableError)
        assert isinstance(good, list)
        assert text_of(good) == expected_text(request())


async def test_a_failed_step_fails_its_requests_and_the_engine_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(fail_on=50) as harness:
        failed = await collect(harness.engine, request((50, 8), stack("a")))
        assert failed[-1].finish_reason is FinishReason.ERROR
        assert "token 50 breaks this model" not in (failed[-1].error or "")
        assert "token 50 breaks this model" in caplog.text
        wanted = request(stack=stack("a"))
        assert text_of(await collect(harness.engine, wanted)) == expected_text(wanted)


async def test_a_failed_placement_fails_only_those_who_need_the_adapter() -> None:
    async with running() as harness:
        harness.runner.unplaceable.add("digest-lost")
        stacks = [stack("a"), stack("lost"), BASE_STACK, stack("a", "lost")]
        wanted = [request((8, 9, 8 + i), stacks[i]) for i in range(4)]
        answers = await asyncio.gather(*(collect(harness.engine, w) for w in wanted))
        for i in (0, 2):
            assert text_of(answers[i]) == expected_text(wanted[i])
        for i in (1, 3):
            assert answers[i][-1].finish_reason is FinishReason.ERROR
            assert "can't be placed" in (answers[i][-1].error or "")
        harness.runner.unplaceable.clear()
        again = await collect(harness.engine, wanted[3])
        assert text_of(again) == expected_text(wanted[3]), "the next user asks for it again"


async def test_refusals_name_value_limit_and_remedy() -> None:
    async with running() as harness:
        engine = harness.engine
        with pytest.raises(PromptTooLongError, match=r"has 60 tokens.*window is 60 tokens"):
            await collect(engine, request((8,) * 60))
        large = AdapterStack((StackMember(adapter("big", 32)),))
        with pytest.raises(AdapterTooLargeError, match=r"rank 32.*up to 24.*max_lora_rank"):
            await collect(engine, request(stack=large))
        wide = AdapterStack(tuple(StackMember(adapter(f"w{i}", 24)) for i in range(3)))
        with pytest.raises(AdapterTooLargeError, match="needs 9 adapter pages; the bank has 6"):
            await collect(engine, request(stack=wide))
        with pytest.raises(OverloadedError, match="at most 12"):
            await collect(engine, request(num_choices=13))


async def test_the_host_cache_evicts_by_bytes_and_shares_loads() -> None:
    async with running() as harness:
        wanted = [request(stack=stack(name)) for name in ("a", "a", "b", "c")]
        await asyncio.gather(*(collect(harness.engine, w) for w in wanted))
        assert harness.loader.loads.count("digest-a") == 1
        assert len(harness.cache.digests()) == 2, "250 bytes hold two adapters of 100"


async def test_a_stopped_engine_says_so() -> None:
    harness = Harness()
    harness.engine.start()
    await harness.engine.stop()
    assert not harness.engine.is_ready
    with pytest.raises(EngineDeadError):
        await collect(harness.engine, request())


async def test_stopping_ends_what_still_runs() -> None:
    harness = Harness(step_seconds=0.01)
    harness.engine.start()
    stream = harness.engine.generate(request(max_tokens=50, ignore_eos=True))
    await anext(stream)
    await harness.engine.stop()
    rest = [delta async for delta in stream]
    assert rest[-1].finish_reason is FinishReason.ERROR


async def test_a_kept_adapter_is_on_the_device_before_and_after_its_requests() -> None:
    async with running() as harness:
        kept = await harness.cache.get(adapter("kept"))
        assert await harness.engine.keep_adapter(kept) is None
        assert harness.engine.resident_adapters == ("digest-kept",)
        for name in "abcdefgh":
            await collect(harness.engine, request(stack=stack(name)))
        assert "digest-kept" in harness.engine.resident_adapters
        wanted = request(stack=stack("kept"))
        assert text_of(await collect(harness.engine, wanted)) == expected_text(wanted)
        large = await harness.cache.get(adapter("large", rank=32))
        problem = await harness.engine.keep_adapter(large)
        assert problem is not None
        assert "takes 4 pages" in problem
        assert "1 of the 4 that pins may take are pinned already" in problem
        harness.runner.unplaceable.add("digest-broke")
        broke = await harness.cache.get(adapter("broke"))
        assert "can't be placed" in str(await harness.engine.keep_adapter(broke))
        harness.engine.let_adapters_go(["digest-kept"])
        for name in "abcdefgh":
            await collect(harness.engine, request(stack=stack(name)))
        assert "digest-kept" not in harness.engine.resident_adapters
    assert await harness.engine.keep_adapter(kept) == "the engine stopped"
