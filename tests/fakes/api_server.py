"""A real uvicorn server on a free loopback port, in a thread of its own."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI


class TellingServer(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


@contextlib.contextmanager
def serve(
    app: FastAPI, *, lifespan: Literal["on", "off"] = "off", http: Any = "auto"
) -> Iterator[str]:
    """Serve `app` while the context lasts; yields its address, `http://127.0.0.1:PORT`."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="warning", ws="none", lifespan=lifespan, http=http,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = TellingServer(config)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        assert server.has_started.wait(timeout=20), "uvicorn didn't start"
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
