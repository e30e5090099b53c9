"""A server that streams made-up answers: what the load tests are tried against."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

METRICS = 'switchyard_memory_bytes{device="cpu",component="weights"} 7\n'

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """Serve on a free port; at the end every connection is closed and its handler awaited."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await handler(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*connections)
        await server.wait_closed()


class FakeServer:
    """Notes the chat bodies it gets and answers each with as many tokens as it asks for.

    `pins` are the paths of what else was posted.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.pins: list[str] = []
        self.num_running = 0
        self.max_running = 0

    def listening(self) -> AbstractAsyncContextManager[str]:
        """Its URL, for as long as it runs."""
        return listening(self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            method, path = head.split(" ")[:2]
            if method == "get":
                models = json.dumps({"data": [{"id": "base"}, {"id": "sql"}]})
                _answer_whole(writer, METRICS if path == "/metrics" else models)
                continue
            if path.startswith("/v1/adapters/"):
                self.pins.append(path)
                _answer_whole(writer, "{}")
                continue
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            self.bodies.append(body)
            await self._answer(body, writer)

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        events: list[dict[str, Any]] = [{"choices": [{"delta": {"role": "assistant"}}]}]
        events += [{"choices": [{"delta": {"content": "x"}}]}] * body["max_tokens"]
        events.append({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
        for payload in (*map(json.dumps, events), "[DONE]"):
            event = f"data: {payload}\n\n".encode()
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0)
        self.num_running -= 1
        writer.write(b"0\r\n\r\n")


def _answer_whole(writer: asyncio.StreamWriter, text: str) -> None:
    body = text.encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
    writer.write(body)
