"""A step that hangs in native code ends the process; what is open is told, and the log says why."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fakes.live_engine import free_port

SERVER = """
import asyncio, ctypes, sys, time
from adapters.store.remote_store import open_store
from loadtests.fixtures.modelless_server import assemble_nothing
from server.composition import serve_model
from server.configuration import load_config
from server.core.errors import SwitchyardError
from server.logs import set_up_logs

port, store, step_timeout_seconds, num_good_steps = sys.argv[1:]
model = assemble_nothing()
execute, num_steps = model.runner.execute, 0

def hang_in_a_kernel(batch):
    global num_steps
    num_steps += 1
    if num_steps > int(num_good_steps):
        ctypes.CDLL(None).sleep(3600)
    return execute(batch)

model.runner.execute = hang_in_a_kernel
flags = {"store": store, "port": int(port), "step_timeout_seconds": float(step_timeout_seconds)}
set_up_logs("info", "json", lambda: None)
try:
    asyncio.run(serve_model(load_config(None, {}, flags), model, open_store(store),
                            started=time.perf_counter()))
except SwitchyardError:
    sys.exit(3)
"""
NUM_GOOD_STEPS = 4
BODY = {"model": "smollm2-135m-instruct", "prompt": "hello", "max_tokens": 40, "ignore_eos": True}


@contextmanager
def hanging_server(
    folder: Path, *, step_timeout_seconds: float
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A server whose fifth step never ends; yields process, address and log."""
    port, log = free_port(), folder / "log"
    arguments = [str(port), str(folder / "store"), str(step_timeout_seconds), str(NUM_GOOD_STEPS)]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", SERVER, *arguments],
            cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONWARNINGS": "ignore"},
            stderr=output,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and child.poll() is None:
            try:
                httpx.get(f"{url}/health/live")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield child, url, log
    finally:
        child.kill()
        child.wait()


def test_a_step_that_hangs_ends_the_process_for_its_supervisor(tmp_path: Path) -> None:
    with (
        hanging_server(tmp_path, step_timeout_seconds=1) as (child, url, log),
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{url}/v1/completions", json=BODY | {"stream": True}) as stream,
    ):
        events = [line for line in stream.iter_lines() if line]
        status = child.wait(60)
    pieces = [event for event in events if '"choices"' in event]
    assert len(pieces) >= NUM_GOOD_STEPS, "what was drawn before has arrived"
    assert "a step of the engine hung" in events[-2]
    assert events[-1] == "data: [DONE]"
    assert status == 1
    told = log.read_text()
    assert "step_timeout_seconds" in told
    assert "hang_in_a_kernel" in told, "the log says where the step is"


def test_without_a_timeout_it_goes_on_waiting(tmp_path: Path) -> None:
    with (
        hanging_server(tmp_path, step_timeout_seconds=0) as (child, url, _),
        httpx.Client(timeout=60) as client,
    ):
        late = client.post(f"{url}/v1/completions", json=BODY, headers={"x-request-timeout": "3"})
        assert late.status_code == 408
        assert child.poll() is None
        assert client.get(f"{url}/health/live").status_code == 200
