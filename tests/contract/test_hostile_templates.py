"""Chat templates that loop, grow or crash: their own caller gets a 400, everybody else his answers.

The renderer is the real one; the model isn't there.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.model.rendering.render_pool import NUM_PROCESSES, RenderPool
from tests.fakes.api_app import FakeServing
from tests.fakes.templates import (
    CALLING_ITSELF,
    ECHOING,
    GROWING,
    LONG,
    LOOPING,
    NESTED,
    RAISING,
    WIDENING,
    EachItsTemplate,
)

TEMPLATES = {
    "looping": (LOOPING, "took more than 1 s"),
    "growing": (GROWING, "took more than"),  # time or memory, whichever is spent first
    "widening": (WIDENING, "took more than"),
    "long": (LONG, "wrote more than"),
    "calling-itself": (CALLING_ITSELF, "calls itself"),
    "nested": (NESTED, "nested, too deep"),
    "raising": (RAISING, "no cats here"),
}
HELLO = [{"role": "user", "content": "Hello"}]
ROUTES = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/responses": {"input": "Hello"},
    "/tokenize": {"messages": HELLO},
}


@asynccontextmanager
async def serving(
    timeout_seconds: float,
) -> AsyncIterator[tuple[httpx.AsyncClient, RenderPool]]:
    templates = {name: template for name, (template, _) in TEMPLATES.items()}
    pool = RenderPool(timeout_seconds=timeout_seconds, memory_mib=128)
    catalog = EachItsTemplate(good=ECHOING, **templates)
    transport = httpx.ASGITransport(FakeServing(catalog=catalog, renderer=pool).app())
    pool.start()
    async with asyncio.timeout(60):
        while len(pool.pids) < NUM_PROCESSES:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(0.01)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, pool
    finally:
        await pool.close()


async def ask(client: httpx.AsyncClient, path: str, name: str, **headers: str) -> httpx.Response:
    return await client.post(path, json={"model": name, **ROUTES[path]}, headers=headers)


async def test_each_is_answered_while_the_event_loop_goes_on() -> None:
    async with serving(timeout_seconds=1) as (client, _):
        for name, (_, words) in TEMPLATES.items():
            asked = asyncio.create_task(ask(client, "/v1/chat/completions", name))
            num_beats = 0
            while not asked.done():
                assert (await client.get("/health/live")).status_code == 200
                good = await ask(client, "/v1/chat/completions", "good")
                assert good.status_code == 200
                num_beats += 1
            answer = asked.result()
            assert answer.status_code == 400, name
            message = answer.json()["error"]["message"]
            assert message.startswith(f"{name}@1's chat template {words}") or (
                message.startswith(f"{name}@1's chat template refuses") and words in message
            ), message
            assert num_beats >= (3 if name == "looping" else 1)


async def test_every_route_that_renders_is_bounded() -> None:
    async with serving(timeout_seconds=0.3) as (client, _):
        for path in ROUTES:
            answer = await ask(client, path, "looping")
            assert answer.status_code == 400
            assert "looping@1's chat template took more than 0.3 s" in answer.text


async def test_the_clients_own_deadline_ends_it() -> None:
    async with serving(timeout_seconds=3600) as (client, _):
        answer = await ask(
            client, "/v1/chat/completions", "looping", **{"x-request-timeout": "0.2"}
        )
        assert answer.status_code == 408
        assert "looping@1's chat template" in answer.json()["error"]["message"]


async def test_a_client_that_leaves_ends_its_rendering() -> None:
    async with serving(timeout_seconds=3600) as (client, pool):
        await ask(client, "/v1/chat/completions", "good")
        app: Any = client._transport.app  # type: ignore[attr-defined]
        before, messages = pool.pids, asyncio.Queue[dict[str, Any]]()
        body = b'{"model": "looping", "messages": [{"role": "user", "content": "x"}]}'
        messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "path": "/v1/chat/completions", "raw_path": b"", "query_string": b"", "root_path": "",
            "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        running = asyncio.create_task(app(scope, messages.get, send))
        await asyncio.sleep(0.1)
        assert not running.done()
        messages.put_nowait({"type": "http.disconnect"})
        await running
        assert sent[0]["status"] == 499
        for _ in range(3):
            await ask(client, "/v1/chat/completions", "good")
        async with asyncio.timeout(60):
            while not before - pool.pids:  # noqa: ASYNC110 - a process sets no event
                await asyncio.sleep(0.01)


SERVER = """
import sys, time
from adapters.store.remote_store import open_store
from loadtests.fixtures.modelless_server import assemble_nothing
from server.composition import serve_model
from server.configuration import load_config
from server.logs import set_up_logs
from server.supervision import run_on_fast_loop
from tests.fakes.templates import LOOPING

port, store = sys.argv[1:]
model = assemble_nothing()
model.tokenizer._tokenizer.chat_template = (
    "{% if messages[0].content == 'loop' %}" + LOOPING + "{% endif %}Hello"
)
flags = {"store": store, "port": int(port), "drain_seconds": 0.3, "render_timeout_seconds": 3600.0}
set_up_logs("info", "json", lambda: None)
run_on_fast_loop(serve_model(load_config(None, {}, flags), model, open_store(store),
                             started=time.perf_counter()))
"""
CLIENT = """
import httpx, sys
body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "loop"}]}
httpx.post(sys.argv[1], timeout=600, json=body)
"""


@contextmanager
def running(script: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python script in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def children_of(pid: int) -> dict[int, int]:
    """The processes that `pid` started, and the ticks that each has computed so far (proc(5))."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stats = {int(each): Path(f"/proc/{each}/stat").read_text() for each in children}
    return {each: int(stat.rpartition(")")[2].split()[11]) for each, stat in stats.items()}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def answers(client: httpx.Client, url: str, content: str) -> bool:
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
    }
    try:
        return client.post(url, json=body).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and only Linux helps a SIGKILL")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_while_a_template_loops_and_leaves_no_process(
    number: signal.Signals, unused_tcp_port: int, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/v1/chat/completions"
    with (
        running(SERVER, str(unused_tcp_port), str(tmp_path)) as server,
        httpx.Client(timeout=60) as client,
    ):
        wait_until(lambda: answers(client, url, "good"), "the server didn't start")
        wait_until(lambda: len(children_of(server.pid)) == 2, "not both processes are up")
        before = children_of(server.pid)
        with running(CLIENT, url):
            wait_until(
                lambda: any(
                    ticks > before.get(pid, 0) + 50
                    for pid, ticks in children_of(server.pid).items()
                ),
                "no template loops",
            )
            processes = children_of(server.pid)
            live = client.get(f"http://127.0.0.1:{unused_tcp_port}/health/live")
            assert live.status_code == 200
            server.send_signal(number)
            status = server.wait(timeout=60)
        assert status == (0 if number is signal.SIGTERM else -number)
        wait_until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes),
            "a process is left",
        )
