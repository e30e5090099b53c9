"""Counts the events of many streams at once, at the least possible cost to the machine."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from loadtests.harness.http_client import HttpClientError

_EVENT_END = b"\n\n"
_LAST_EVENT = b"data: [DONE]\n\n"
_STATUS = b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class EventRate:
    """What came while all streams ran: from the last one's first event to the first one's end.

    `num_events_each` are those of every whole stream, the last `[DONE]` among them.
    """

    num_events: int
    seconds: float
    num_events_each: tuple[int, ...]

    @property
    def per_second(self) -> float:
        return self.num_events / self.seconds


class _Counting(asyncio.Protocol):
    """One connection with one request on it."""

    def __init__(self, race: "_Race", request: bytes) -> None:
        self._race = race
        self._request = request
        self._tail = b""
        self._head: bytes | None = b""
        self.num_events = 0

    def connection_made(self, transport: Any) -> None:  # uvloop's know no base class
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            head, blank, data = self._head.partition(b"\r\n\r\n")
            if not blank:
                return
            if not head.startswith(_STATUS):
                self._race.fail(HttpClientError(f"answered {head[:40]!r} {data[:300]!r}"))
                return
            self._head = None
        ends = data.count(_EVENT_END)
        if self._tail.endswith(b"\n") and data.startswith(b"\n"):
            ends += 1
        if ends:
            if not self.num_events:
                self._race.begun()
            self.num_events += ends
            self._race.num_events += ends
        self._tail = (self._tail + data)[-len(_LAST_EVENT) - 8 :]
        if data.endswith(b"0\r\n\r\n"):
            if _LAST_EVENT not in self._tail:
                self._race.fail(HttpClientError(f"a stream ended with {self._tail!r}"))
            self._race.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._race.fail(HttpClientError(f"a connection was lost: {exc}"))


class _Race:
    """All connections together."""

    def __init__(self, num_streams: int) -> None:
        self.num_events = 0
        self.finished = asyncio.get_running_loop().create_future()
        self._num_streams = num_streams
        self._num_begun = 0
        self._num_ended = 0
        self._started = (0.0, 0)
        self._stopped = (0.0, 0)

    def begun(self) -> None:
        self._num_begun += 1
        if self._num_begun == self._num_streams:
            self._started = time.perf_counter(), self.num_events

    def ended(self) -> None:
        if not self._num_ended:
            self._stopped = time.perf_counter(), self.num_events
        self._num_ended += 1
        if self._num_ended == self._num_streams and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)

    def rate(self, num_events_each: tuple[int, ...]) -> EventRate:
        (start, before), (end, after) = self._started, self._stopped
        if self._num_begun < self._num_streams or end <= start:
            raise HttpClientError("the streams never ran all at once: ask for longer answers")
        return EventRate(after - before, end - start, num_events_each)


async def count_events(url: str, path: str, body: Mapping[str, Any], num_streams: int) -> EventRate:
    """POST `body` on `num_streams` connections at once and read all the streams to their ends.

    Raises `HttpClientError` for any that isn't a whole stream.
    """
    parts, content = urlsplit(url), json.dumps(body).encode()
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    request = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content
    loop, race = asyncio.get_running_loop(), _Race(num_streams)
    connections: list[tuple[asyncio.Transport, _Counting]] = []
    try:
        for _ in range(num_streams):
            connections.append(
                await loop.create_connection(lambda: _Counting(race, request), host, port)
            )
        await race.finished
    finally:
        for transport, _ in connections:
            transport.close()
    return race.rate(tuple(protocol.num_events for _, protocol in connections))
