"""Our own server, or llama.cpp's, as a child process for as long as a measurement takes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.harness.http_client import HttpClientError, HttpConnection

_START_LIMIT_SECONDS = 300.0
_STOP_LIMIT_SECONDS = 20.0


class ServerStartError(Exception):
    """The server ended or wasn't ready in time; the message holds the end of its log."""


@asynccontextmanager
async def running_server(
    base: str, store: Path, log_file: Path, extra_args: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Start `server` on a free port, yield its URL once ready, stop it afterwards.

    Raises `ServerStartError`. The log goes to `log_file`.
    """
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "server"),
        *("--base", base, "--store", str(store), "--host", "127.0.0.1", "--port", str(port)),
        *extra_args,
    ]
    url = f"http://127.0.0.1:{port}"
    async with running_process(command, url, log_file):
        yield url


@asynccontextmanager
async def running_llama_cpp(
    binary: Path,
    model: Path,
    adapters: Sequence[Path],
    log_file: Path,
    *,
    num_clients: int,
    context_each: int = 512,
) -> AsyncIterator[str]:
    """llama.cpp's `llama-server` over a GGUF model, in the same way.

    The GGUF `adapters` are held but not applied: a request names them by position in its `lora`
    field. It uses every core and batches `num_clients` sequences of `context_each` tokens.
    """
    port = free_port()
    command = [
        *(str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *(
            "-t",
            str(os.cpu_count()),
            "-np",
            str(num_clients),
            "-c",
            str(num_clients * context_each),
        ),
        *(("--lora", ",".join(map(str, adapters))) if adapters else ()),
        "--lora-init-without-apply",
    ]
    url = f"http://127.0.0.1:{port}"
    async with running_process(command, url, log_file, ready_path="/health"):
        yield url


@asynccontextmanager
async def running_process(
    command: Sequence[str], url: str, log_file: Path, *, ready_path: str = "/health/ready"
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Any server, from its answer of 200 at `ready_path` on until the context ends."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    with log_file.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once; nothing else runs yet
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        loop.add_signal_handler(signal.SIGTERM, task.cancel)  # else the server would be orphaned
        try:
            await _wait_until_ready(url, ready_path, process, log_file)
            yield process
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            process.terminate()
            try:
                process.wait(_STOP_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def base_model_id(url: str) -> str:
    """The id of the first model that a server lists: the base, on ours and on vLLM.

    Raises `HttpClientError` when it lists none.
    """
    status, text = await get(url, "/v1/models")
    models = json.loads(text).get("data") if status == 200 else None
    if not models:
        raise HttpClientError(f"{url}/v1/models lists no model (status {status}): name one")
    return str(models[0]["id"])


async def get(url: str, path: str) -> tuple[int, str]:
    """Status and text of one GET."""
    connection = HttpConnection(url)
    try:
        return await connection.get(path)
    finally:
        connection.close()


async def _wait_until_ready(
    url: str, ready_path: str, process: subprocess.Popen[bytes], log_file: Path
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_LIMIT_SECONDS
    while process.poll() is None and loop.time() < deadline:
        try:
            status, _ = await get(url, ready_path)
        except HttpClientError:
            status = 0
        if status == 200:
            return
        await asyncio.sleep(0.1)
    code = process.poll()
    why = "not ready in time" if code is None else f"gone with exit status {code}"
    raise ServerStartError(f"the server is {why}. The end of its log:\n{tail(log_file)}")


def tail(log_file: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log_file.read_text(errors="replace").splitlines()[-30:])


def free_port() -> int:
    """A port on the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
