"""The ladder of servers without a model: what each rung streams, and the table of their costs."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from loadtests.fixtures.modelless_server import engine_maker
from loadtests.fixtures.ready_engine import InStep, ReadyRunner, ready_tokens
from loadtests.front_end import Rung, check_whole, rows
from loadtests.harness.command import MeasurementError
from server.core.request import FinishReason, GenerationRequest, SamplingParams
from server.core.settings import SchedulerSettings
from server.engine.engine import Engine
from server.engine.hosting.host_cache import HostAdapterCache
from server.engine.metrics import EngineMetrics
from server.scheduling.scheduler import Scheduler
from tests.fakes.api_tokenizer import FakeTokenizer
from tests.fakes.runner import FakeLoader

SETTINGS = SchedulerSettings(max_num_sequences=4, max_model_len=400, num_blocks=200)


def make_engine(make: Callable[..., Engine]) -> Engine:
    tokenizer, metrics = FakeTokenizer(), EngineMetrics(CollectorRegistry())
    return make(
        Scheduler(SETTINGS, eos_token_ids=tokenizer.eos_token_ids, base_digest="none"),
        ReadyRunner(ready_tokens(tokenizer), step_seconds=0.0),
        tokenizer,
        HostAdapterCache(FakeLoader(), max_bytes=1, metrics=metrics),
        settings=SETTINGS,
        metrics=metrics,
        device="cpu",
    )


@pytest.mark.parametrize("rung", ["front-end", "detokenising", "whole"])
async def test_every_rung_streams_one_token_a_step(rung: str) -> None:
    engine = make_engine(engine_maker(rung, num_streams=2))
    engine.start()
    wanted = GenerationRequest("r", (1, 2), SamplingParams(max_tokens=300, ignore_eos=True))

    async def answer() -> list[str]:
        deltas = [delta async for delta in engine.generate(wanted)]
        assert [delta.num_tokens for delta in deltas] == [1] * 300
        assert deltas[-1].finish_reason is FinishReason.LENGTH
        return [delta.text for delta in deltas]

    one, other = await asyncio.gather(answer(), answer())
    await engine.stop()
    assert one == other
    text = "".join(one)
    assert text.startswith(" river river" if rung == "front-end" else "The river rises")


async def test_nobody_is_a_step_ahead() -> None:
    pace, turns = InStep(2), {"a": 0, "b": 0}

    async def member(name: str) -> None:
        with pace.member():
            for _ in range(20):
                await pace.turn()
                turns[name] += 1
                assert abs(turns["a"] - turns["b"]) <= 1

    await asyncio.gather(member("a"), member("b"))
    assert turns == {"a": 20, "b": 20}


def test_each_rung_is_compared_with_the_one_before() -> None:
    table = rows([Rung("socket", 100_000.0, 8.0), Rung("whole", None, 20.5)])
    assert table[0][:4] == ("socket", "100,000", "8.0", "+8.0")
    assert table[1][:4] == ("whole", "-", "20.5", "+12.5")


def test_a_stream_with_missing_events_is_no_measurement() -> None:
    check_whole("socket", [101, 103], 100)
    with pytest.raises(MeasurementError, match="99 events for 100 tokens"):
        check_whole("socket", [101, 99], 100)
