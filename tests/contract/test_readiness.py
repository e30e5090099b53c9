"""A step that hangs turns readiness red, and new requests away; by a clock that is set."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from server.core.batch import ScheduledBatch, StepOutput
from tests.fakes.live_engine import LiveEngine, serve_engine

BODY = {"model": "sql", "prompt": "hello", "max_tokens": 3}


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def hanging(
    execute: Callable[[ScheduledBatch], StepOutput],
    has_begun: threading.Event,
    may_go_on: threading.Event,
) -> Callable[[ScheduledBatch], StepOutput]:
    """`execute`, which says that it has begun and then waits."""

    def execute_late(batch: ScheduledBatch) -> StepOutput:
        has_begun.set()
        assert may_go_on.wait(60)
        return execute(batch)

    return execute_late


def test_ready_is_red_while_a_step_hangs_and_green_again_behind_it() -> None:
    clock, has_begun, may_go_on = Clock(), threading.Event(), threading.Event()
    live = LiveEngine(clock=clock)
    live.runner.execute = hanging(live.runner.execute, has_begun, may_go_on)  # type: ignore[method-assign]
    with (
        serve_engine(live) as address,
        httpx.Client(base_url=address, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            assert client.get("/health/ready").status_code == 200
            answer = pool.submit(httpx.post, f"{address}/v1/completions", json=BODY, timeout=60)
            assert has_begun.wait(60)
            clock.now += 119
            assert client.get("/health/ready").status_code == 200, "a long step is no hanging one"
            clock.now += 2
            red = client.get("/health/ready")
            assert (red.status_code, red.json()["error"]["code"]) == (503, "not_ready")
            assert red.headers["retry-after"] == "1"
            late = client.post("/v1/completions", json=BODY)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "engine_stalled")
            assert int(late.headers["retry-after"]) >= 1
            assert client.get("/health/live").status_code == 200
            assert client.get("/metrics").status_code == 200
        finally:
            may_go_on.set()
        assert answer.result(60).status_code == 200
        assert client.get("/health/ready").status_code == 200
