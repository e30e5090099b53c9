"""One request over a plain connection, read event by event, so that a user can be slow or leave.

Uses `http.client`, which Locust's gevent makes cooperative.
"""

import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 120.0

Pause = Callable[[int], bool]
"""Called with the number of events read so far; returns False to hang up."""


@dataclass(slots=True)
class Exchange:
    """What came back. `is_whole` means up to `[DONE]`; `failure` is why there is no answer.

    `arrivals` are the times of the pieces of text in seconds after the request was sent.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    arrivals: list[float] = field(default_factory=list)
    num_tokens: int = 0
    finish_reason: str | None = None
    is_whole: bool = False
    has_left: bool = False
    failure: str = ""
    seconds: float = 0.0


def post(url: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Exchange:
    """POST `body` and read the whole answer as one text."""
    exchange = Exchange()
    with _Timed(exchange):
        connection = _connect(url)
        try:
            connection.request("POST", path, body, {**_JSON, **(headers or {})})
            response = connection.getresponse()
            _note_head(exchange, response)
            exchange.text = response.read().decode(errors="replace")
            exchange.is_whole = True
        finally:
            connection.close()
    return exchange


def stream(url: str, path: str, body: Mapping[str, Any], pause: Pause | None = None) -> Exchange:
    """POST `body` and read the events; `pause` runs after each and may end the reading."""
    exchange = Exchange()
    with _Timed(exchange):
        connection = _connect(url)
        try:
            start = time.perf_counter()
            connection.request("POST", path, json.dumps(body).encode(), _JSON)
            response = connection.getresponse()
            _note_head(exchange, response)
            if response.status != 200:
                exchange.text = response.read().decode(errors="replace")
                return exchange
            _read_events(exchange, response, start, pause)
        finally:
            connection.close()
    return exchange


_JSON = {"Content-Type": "application/json"}


class _Timed:
    """Times an exchange; a connection that fails is noted, not raised."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._start = time.perf_counter()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._exchange.seconds = time.perf_counter() - self._start
        if isinstance(error, OSError | http.client.HTTPException | ValueError):
            self._exchange.failure = f"{type(error).__name__}: {error}"
            return True
        return False


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None, url
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)


def _note_head(exchange: Exchange, response: http.client.HTTPResponse) -> None:
    exchange.status = response.status
    exchange.headers = {name.lower(): value for name, value in response.getheaders()}


def _read_events(
    exchange: Exchange, response: http.client.HTTPResponse, start: float, pause: Pause | None
) -> None:
    pieces: list[str] = []
    num_events = 0
    while line := response.readline():
        if not line.startswith(b"data:"):
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]":
            exchange.is_whole = True
            break
        event = json.loads(payload)
        if error := event.get("error"):
            exchange.failure = str(error.get("message"))
            continue
        if usage := event.get("usage"):
            exchange.num_tokens = int(usage["completion_tokens"])
        for choice in event.get("choices") or ():
            exchange.finish_reason = choice.get("finish_reason") or exchange.finish_reason
            if text := (choice.get("delta") or {}).get("content"):
                pieces.append(text)
                exchange.arrivals.append(time.perf_counter() - start)
        num_events += 1
        if pause is not None and not pause(num_events):
            exchange.has_left = True
            break
    exchange.text = "".join(pieces)
