"""Which gaps count as during a prefill, and a whole run against a fake server."""

import pytest

from loadtests.harness.command import MeasurementError
from loadtests.harness.http_client import StreamTimings
from loadtests.prefill_interference import (
    Interferer,
    Plan,
    judge,
    parse_arguments,
    server_arguments,
)
from tests.unit.loadtests.fake_server import FakeServer


def stream(*times: float) -> StreamTimings:
    return StreamTimings(0.0, times[-1], times, len(times), "x" * len(times))


def prompt(started: float, first_token: float) -> StreamTimings:
    return StreamTimings(started, first_token, (first_token,), 1, "x")


def test_gaps_are_sorted_by_what_ran_beside_them() -> None:
    steady = stream(1.0, 2.0, 3.0, 6.0, 7.0, 8.0)
    result = judge([steady], [prompt(3.5, 5.5)], [prompt(0.0, 0.5), prompt(0.0, 1.5)])
    assert result.num_prompts == 1
    assert result.gap_during_p50_ms == 3000.0
    assert result.gap_without_p50_ms == result.gap_without_p99_ms == 1000.0
    assert result.ttft_alone_p50_ms == 1000.0
    assert result.ttft_with_streams_p50_ms == 2000.0
    assert result.ratio == 3.0
    assert result.ratio_during == 1.0


def test_only_the_time_in_which_all_streams_run_counts() -> None:
    early, late = stream(1.0, 2.0, 3.0, 4.0), stream(3.0, 3.5, 4.0, 30.0)
    result = judge([early, late], [prompt(3.1, 3.2), prompt(10.0, 11.0)], [prompt(0.0, 1.0)])
    assert result.num_prompts == 1
    assert result.gap_during_p99_ms <= 1000.0
    assert result.gap_without_p50_ms == 500.0  # of `late`; the gap up to 30 is outside


def test_streams_that_met_no_prompt_are_no_measurement() -> None:
    with pytest.raises(MeasurementError, match="0 of 1 prompts"):
        judge([stream(1.0, 2.0, 3.0)], [prompt(5.0, 6.0)], [prompt(0.0, 1.0)])


def test_a_small_budget_takes_fewer_sequences() -> None:
    assert server_arguments(None, 16, ["--x"]) == ("--x",)
    assert server_arguments(48, 16, []) == ("--max-batch-tokens=48", "--max-num-sequences=48")
    assert server_arguments(512, 16, []) == ("--max-batch-tokens=512", "--max-num-sequences=64")
    with pytest.raises(MeasurementError, match="at least 17"):
        server_arguments(16, 16, [])


def test_budgets_are_a_list_of_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_arguments(["--max-batch-tokens", "64,128"]).max_batch_tokens == (64, 128)
    with pytest.raises(SystemExit):
        parse_arguments(["--max-batch-tokens", "many"])
    assert "isn't a list such as 64,128" in capsys.readouterr().err


async def test_prompts_come_alone_and_then_beside_the_streams() -> None:
    fake = FakeServer()
    plan = Plan(num_streams=3, num_prompts=2, prompt_tokens=40, rest_seconds=0.01)
    async with fake.listening() as url:
        interferer = Interferer(url, "base", plan, lambda text: len(text.split()))
        result = await interferer.measure()
    assert 1 <= result.num_prompts <= 2
    assert result.ttft_alone_p50_ms > 0
    long = [body for body in fake.bodies if body["max_tokens"] == 1]
    texts = [body["messages"][0]["content"] for body in long]
    assert len(set(texts)) == len(texts)
    assert {len(text.split()) for text in texts} == {40}
    assert fake.max_running == 4
