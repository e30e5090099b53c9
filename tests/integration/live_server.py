"""A real `server` process on the embedded base, as a user starts it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 180.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def import_examples(store: Path) -> None:
    """What `make serve` does before it starts the server."""
    for folder in sorted((ROOT / "examples").glob("*/adapter")):
        subprocess.run(
            [BIN / "adapters", "import", folder.parent.name, folder, "--store", store],
            check=True,
            capture_output=True,
        )


@contextlib.contextmanager
def live_server(store: Path, log: Path, *arguments: str) -> Iterator[str]:
    """Start a server; yields its base URL; ends it with SIGTERM and checks that it exits with 0."""
    port = free_port()
    command = [BIN / "server", "--store", store, "--port", str(port), *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ.copy()
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            process.terminate()
            status = process.wait(30)
    assert status == 0, f"the server ended with {status}: {log.read_text()[-2000:]}"


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"not ready in {START_SECONDS:.0f} s: {log.read_text()[-2000:]}")
