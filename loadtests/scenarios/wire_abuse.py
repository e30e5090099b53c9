"""Bytes that are hardly HTTP: a server may answer with a 4xx or hang up, and must go on."""

import random
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

_READ_SECONDS = 5.0

_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

_ABUSES: tuple[tuple[str, Callable[[random.Random], bytes]], ...] = (
    ("no HTTP at all", lambda draw: draw.randbytes(200) + b"\r\n\r\n"),
    ("no version", lambda draw: b"GET /\r\n\r\n"),
    ("unknown version", lambda draw: b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"),
    ("control characters", lambda draw: b"GET /\x00\x01\x7f HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("endless header", lambda draw: b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000),
    ("many headers", lambda draw: b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
    ("two lengths", lambda draw: _HEAD + b"Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}"),
    ("negative length", lambda draw: _HEAD + b"Content-Length: -5\r\n\r\n{}"),
    ("length of letters", lambda draw: _HEAD + b"Content-Length: many\r\n\r\n{}"),
    ("immense length", lambda draw: _HEAD + b"Content-Length: 99999999999999\r\n\r\n{}"),
    ("length and chunks", lambda draw: _HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked"
                                                 b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ("bad chunk size", lambda draw: _HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    ("immense chunk", lambda draw: _HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n{}"),
    ("cut off", lambda draw: _HEAD + b"Content-Length: 500\r\n\r\n{"),
    ("folded header", lambda draw: b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n"),
    ("bare line feeds", lambda draw: b"GET /health/live HTTP/1.1\nHost: x\n\n"),
    ("pipelined", lambda draw: b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 50),
)  # fmt: skip


def abuse(url: str, draw: random.Random) -> tuple[str, int]:
    """Send one of them and hang up; returns its name and the status, 0 for none.

    Raises `OSError` when the server doesn't even accept the connection.
    """
    name, make = draw.choice(_ABUSES)
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    answer = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=_READ_SECONDS) as peer:
        try:
            peer.sendall(make(draw))
            peer.shutdown(socket.SHUT_WR)
            answer = peer.recv(4096)
        except OSError:
            pass  # hanging up on such bytes is an answer
    words = answer.split(b" ", 2)
    is_http = len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit()
    return name, int(words[1]) if is_http else 0
