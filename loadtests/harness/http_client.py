"""An HTTP/1.1 client for event streams that costs next to nothing per token.

The benchmark shares the machine's cores with the server it measures, so the client must stay small.
It is one `asyncio.Protocol`: bytes are taken apart where they arrive and only noted with their
time; no task wakes per token, and no JSON is parsed until the measurement is over.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_MAX_HEADER_BYTES = 64 * 1024


class HttpClientError(Exception):
    """The server can't be reached, broke the protocol, or answered with an error."""


class ResponseParser:
    """One HTTP/1.1 response, taken apart as its bytes arrive (RFC 9112).

    Understands chunked bodies, Content-Length, and bodies that end with the connection.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._buffer = b""
        self._in_body = False
        self._is_chunked = False
        self._num_bytes_left: int | None = None  # of the chunk or the body; None = until the end

    @property
    def has_begun(self) -> bool:
        """Whether any byte of the response came."""
        return self._in_body or bool(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """The body bytes that `data` completes. Raises `HttpClientError` on broken framing."""
        self._buffer += data
        if not self._in_body and not self._take_headers():
            return b""
        return self._take_chunks() if self._is_chunked else self._take_plain()

    def end_of_connection(self) -> None:
        """The peer closed. Raises `HttpClientError` when the response isn't whole by then."""
        if self._in_body and not self._is_chunked and self._num_bytes_left is None:
            self.is_complete = True
        if not self.is_complete:
            raise HttpClientError("the server closed the connection in the middle of an answer")

    def _take_headers(self) -> bool:
        head, blank, rest = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            if len(self._buffer) > _MAX_HEADER_BYTES:
                raise HttpClientError(f"over {_MAX_HEADER_BYTES} bytes of response headers")
            return False
        status_line, *lines = head.decode("latin-1").split("\r\n")
        parts = status_line.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise HttpClientError(f"not an HTTP/1 answer: {status_line[:80]!r}")
        self.status = int(parts[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._buffer, self._in_body = rest, True
        self._is_chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        if not self._is_chunked and "content-length" in self.headers:
            self._num_bytes_left = int(self.headers["content-length"])
        if self.status in (204, 304):
            self._num_bytes_left = 0
        return True

    def _take_plain(self) -> bytes:
        body, self._buffer = self._buffer, b""
        if self._num_bytes_left is not None:
            self._num_bytes_left -= len(body)
            if self._num_bytes_left < 0:
                raise HttpClientError("more bytes than Content-Length announced")
            self.is_complete = self._num_bytes_left == 0
        return body

    def _take_chunks(self) -> bytes:
        pieces: list[bytes] = []
        while not self.is_complete:
            line, newline, rest = self._buffer.partition(b"\r\n")
            if not newline:
                break
            try:
                size = int(line.split(b";", 1)[0], 16)
            except ValueError:
                raise HttpClientError(f"not a chunk size: {line[:40]!r}") from None
            if len(rest) < size + 2:
                break
            if rest[size : size + 2] != b"\r\n":
                raise HttpClientError("a chunk doesn't end where its size says")
            pieces.append(rest[:size])
            self._buffer = rest[size + 2 :]
            self.is_complete = size == 0
        return b"".join(pieces)


class SseParser:
    """The `data` payloads of a `text/event-stream`; comments and other fields are dropped."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []

    def feed(self, body: bytes) -> list[bytes]:
        """The payloads whose event `body` completes, in order."""
        self._buffer += body
        *lines, self._buffer = self._buffer.split(b"\n")
        payloads: list[bytes] = []
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if not line:
                if self._data:
                    payloads.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return payloads


@dataclass(slots=True)
class StreamRecord:
    """One streamed answer as it came: payload i arrived at `arrivals[i]` (perf_counter seconds)."""

    started: float
    finished: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StreamTimings:
    """What a record says once its JSON is read. A gap is the time between two pieces of text."""

    started: float
    finished: float
    text_arrivals: tuple[float, ...]
    num_tokens: int
    text: str

    @property
    def ttft_seconds(self) -> float:
        return self.text_arrivals[0] - self.started

    @property
    def gaps_seconds(self) -> tuple[float, ...]:
        return tuple(b - a for a, b in itertools.pairwise(self.text_arrivals))


def read_timings(record: StreamRecord) -> StreamTimings:
    """Parse a record. Tokens come from the usage chunk, else one is counted per piece of text.

    Raises `HttpClientError` when the stream carries an error, no text, or no `[DONE]`.
    """
    arrivals: list[float] = []
    pieces: list[str] = []
    num_tokens = 0
    for arrival, payload in zip(record.arrivals, record.payloads, strict=True):
        if payload == b"[DONE]":
            break
        event: dict[str, Any] = json.loads(payload)
        if event.get("error"):
            raise HttpClientError(f"the stream broke off: {event['error']}")
        text = _text_of(event)
        if text:
            arrivals.append(arrival)
            pieces.append(text)
        usage = event.get("usage")
        if usage:
            num_tokens = int(usage["completion_tokens"])
    else:
        raise HttpClientError("the stream ended without [DONE]")
    if not arrivals:
        raise HttpClientError("the stream carried no text")
    return StreamTimings(
        record.started,
        record.finished,
        tuple(arrivals),
        num_tokens or len(arrivals),
        "".join(pieces),
    )


def _text_of(event: Mapping[str, Any]) -> str:
    choices: Sequence[Mapping[str, Any]] = event.get("choices") or ()
    if not choices:
        return ""
    delta = choices[0].get("delta") or {}
    return str(delta.get("content") or choices[0].get("text") or "")


class _Wire(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self.parser = ResponseParser()
        self.body: list[bytes] = []
        self._record: StreamRecord | None = None
        self._events = SseParser()
        self._finished: asyncio.Future[None] | None = None

    def begin(self, record: StreamRecord | None) -> asyncio.Future[None]:
        """Expect one response, as a stream into `record` or as `body`."""
        self.parser, self._events, self.body = ResponseParser(), SseParser(), []
        self._record = record
        self._finished = asyncio.get_running_loop().create_future()
        return self._finished

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._finished is None or self._finished.done():
            return
        try:
            body = self.parser.feed(data)
        except HttpClientError as error:
            self._finished.set_exception(error)
            return
        if self._record is not None and self.parser.status == 200:
            for payload in self._events.feed(body):
                self._record.arrivals.append(now)
                self._record.payloads.append(payload)
            self._record.finished = now
        else:
            self.body.append(body)
        if self.parser.is_complete:
            self._finished.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._finished is None or self._finished.done():
            return
        try:
            self.parser.end_of_connection()
        except HttpClientError as error:
            self._finished.set_exception(error)
        else:
            self._finished.set_result(None)


class HttpConnection:
    """A kept-alive connection to one server, reopened when the server has closed it.

    Use it from one task at a time, and `close()` it.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HttpClientError(f"{base_url!r} is no http:// or https:// address")
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._is_tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._wire = _Wire()
        self._transport: asyncio.Transport | None = None

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET. Raises `HttpClientError` when there is no answer."""
        await self._exchange("GET", path, b"", None)
        return self._wire.parser.status, b"".join(self._wire.body).decode()

    async def stream(self, path: str, body: Mapping[str, Any]) -> StreamRecord:
        """POST `body` and note each event with its arrival.

        Raises `HttpClientError` with the server's message when the status isn't 200.
        """
        await self._connect()
        record = StreamRecord(started=time.perf_counter())
        await self._exchange("POST", path, json.dumps(body).encode(), record)
        if self._wire.parser.status != 200:
            text = b"".join(self._wire.body).decode(errors="replace")[:400]
            raise HttpClientError(f"POST {path} answered {self._wire.parser.status}: {text}")
        return record

    def close(self) -> None:
        """Close the connection; a running stream is thereby aborted."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def _connect(self) -> asyncio.Transport:
        if self._transport is not None and self._wire.is_open:
            return self._transport
        loop = asyncio.get_running_loop()
        try:
            transport, self._wire = await loop.create_connection(
                _Wire, self._host, self._port, ssl=self._is_tls or None
            )
        except OSError as error:
            raise HttpClientError(f"no server at {self._host}:{self._port}: {error}") from error
        self._transport = transport
        return transport

    async def _exchange(
        self, method: str, path: str, body: bytes, record: StreamRecord | None
    ) -> None:
        is_reused = self._transport is not None and self._wire.is_open
        lines = [f"{method} {self._prefix}{path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        try:
            await self._send(request, record)
        except HttpClientError:
            # The server closed an idle connection just as this request set out (RFC 9112, 9.5).
            if not is_reused or self._wire.parser.has_begun:
                raise
            await self._send(request, record)
        if self._wire.parser.headers.get("connection", "").lower() == "close":
            self.close()

    async def _send(self, request: bytes, record: StreamRecord | None) -> None:
        transport = await self._connect()
        finished = self._wire.begin(record)
        transport.write(request)
        try:
            await finished
        except BaseException:
            self.close()
            raise
