"""A server's life with real processes: while it loads, and when its event loop is blocked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.fakes.live_engine import free_port

ROOT = Path(__file__).parents[2]
LOADING = """
import sys, threading
from server.configuration import load_config
from server.logs import set_up_logs
from server.startup import serve_when_loaded
from server.supervision import run_on_fast_loop

port, store, *_ = sys.argv[1:]
set_up_logs("info", "json", lambda: None)
run_on_fast_loop(serve_when_loaded(
    load_config(None, {}, {"store": store, "port": int(port)}), threading.Event().wait))
"""
BLOCKED = """
import ctypes, sys, time
from adapters.store.remote_store import open_store
from loadtests.fixtures.modelless_server import assemble_nothing
from server.composition import serve_model
from server.configuration import load_config
from server.logs import set_up_logs
from server.supervision import run_on_fast_loop

port, store, loop_timeout_seconds = sys.argv[1:]
model = assemble_nothing()

def block_the_loop(text, *, adds_special_tokens=True):
    print("THE LOOP STOPS", file=sys.stderr, flush=True)
    while True:
        ctypes.CDLL(None).sleep(3600)  # a signal wakes it

model.tokenizer.encode = block_the_loop
flags = {"store": store, "port": int(port), "loop_timeout_seconds": float(loop_timeout_seconds),
         "drain_seconds": 0.1}
set_up_logs("info", "json", lambda: None)
run_on_fast_loop(serve_model(load_config(None, {}, flags), model, open_store(store),
                             started=time.perf_counter()))
"""
BODY = {"model": "smollm2-135m-instruct", "prompt": "hello", "max_tokens": 4}


@contextmanager
def server(
    script: str, folder: Path, *arguments: str
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A process that answers; yields it, its address and its log."""
    port, log = free_port(), folder / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(port), str(folder / "store"), *arguments],
            cwd=ROOT, env=os.environ | {"PYTHONWARNINGS": "ignore"}, stderr=output,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: child.poll() is not None or is_live(url))
        yield child, url, log
    finally:
        child.kill()
        child.wait()


def is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def block(url: str, log: Path) -> subprocess.Popen[bytes]:
    """Send the request that blocks the loop, from a process that nobody waits for."""
    script = f"import httpx; httpx.post({url + '/v1/completions'!r}, json={BODY!r}, timeout=600)"
    asking = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    until(lambda: "THE LOOP STOPS" in log.read_text())
    return asking


def test_while_it_loads_it_answers_and_a_signal_ends_it_well(tmp_path: Path) -> None:
    with server(LOADING, tmp_path) as (child, url, log):
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize"):
            refused = httpx.post(url + path, json=BODY)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/health/ready").status_code == 503
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    assert "while loading" in log.read_text()


def test_a_blocked_loop_ends_the_process_and_the_log_says_where(tmp_path: Path) -> None:
    with server(BLOCKED, tmp_path, "1") as (child, url, log), block(url, log) as asking:
        assert child.wait(60) == 1
        asking.kill()
    told = log.read_text()
    assert "loop_timeout_seconds" in told
    assert "block_the_loop" in told


def test_a_signal_ends_a_blocked_loop_within_its_grace(tmp_path: Path) -> None:
    with server(BLOCKED, tmp_path, "0") as (child, url, log), block(url, log) as asking:
        child.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # two at once may be one
        child.send_signal(signal.SIGINT)  # which makes the grace shorter, and the test
        until(lambda: child.poll() is not None)
        asking.kill()
    assert child.returncode == 0
    told = log.read_text()
    assert "told to stop, and not done" in told
    assert "block_the_loop" in told
