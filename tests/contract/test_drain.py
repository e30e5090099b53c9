"""A server told to stop: what runs ends, what comes is sent away, the process ends well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.fakes.live_engine import free_port

SERVER = """
import asyncio, sys
import uvicorn
from server.core.errors import SwitchyardError
from server.logs import set_up_logs
from server.supervision import DrainingServer, serve_until_dead
from tests.fakes.live_engine import LiveEngine

port, drain_seconds, step_seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
live = LiveEngine(step_seconds=step_seconds)
if len(sys.argv) > 4:
    live.scheduler.schedule = lambda: 1 / 0

async def main():
    config = uvicorn.Config(live.app, host="127.0.0.1", port=port, log_config=None,
                            timeout_graceful_shutdown=3)
    server = DrainingServer(config, live.drain, drain_seconds=drain_seconds,
                            abort_all=live.engine.abort_all)
    await serve_until_dead(server, live.engine.wait_dead)

set_up_logs("info", "json", lambda: None)
try:
    asyncio.run(main())
except SwitchyardError:
    sys.exit(1)
"""
BODY = {"model": "sql", "prompt": "hello", "max_tokens": 40, "ignore_eos": True}


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port), *arguments],
        cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{url}/health/live")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield child, url
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("is_stream", [True, False])
def test_running_requests_finish_and_new_ones_are_sent_away(is_stream: bool) -> None:
    with process("60", "0.03") as (child, url), httpx.Client(timeout=60) as client:
        with client.stream("POST", f"{url}/v1/completions", json=BODY | {"stream": True}) as one:
            lines = one.iter_lines()
            next(lines)
            child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 30
            while (answer := httpx.get(f"{url}/health/ready")).status_code == 200:
                assert time.monotonic() < deadline
            for refused in (answer, httpx.post(f"{url}/v1/completions", json=BODY)):
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.headers["connection"] == "close"
                assert refused.json()["error"]["code"] == "draining"
            assert httpx.get(f"{url}/health/live").status_code == 200
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2]
        assert child.wait(60) == 0


def test_what_does_not_finish_in_time_is_told(tmp_path: Path) -> None:
    with process("0.2", "0.1") as (child, url), httpx.Client(timeout=60) as client:
        with client.stream("POST", f"{url}/v1/completions", json=BODY | {"stream": True}) as one:
            lines = one.iter_lines()
            next(lines)
            child.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert "generation_aborted" in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert child.wait(60) == 0


def test_a_dead_engine_ends_the_process_for_its_supervisor() -> None:
    with process("60", "0", "die") as (child, url):
        answer = httpx.post(f"{url}/v1/completions", json=BODY, timeout=60)
        assert answer.status_code in (500, 503)
        assert child.wait(60) == 1
