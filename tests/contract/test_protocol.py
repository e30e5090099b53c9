"""Sockets that mean no good: long heads, slow heads, readers that don't read."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from server.api.access.protocol import ConnectionLimits, guarded_protocol
from tests.fakes.api_app import FakeServing
from tests.fakes.api_server import serve

LIMITS = ConnectionLimits(
    max_head_bytes=4096, max_message_bytes=200_000, head_seconds=0.5, write_seconds=0.5
)


def with_large_answers(app: FastAPI) -> FastAPI:
    app.add_api_route("/large", lambda: Response(b"x" * 20_000_000), response_model=None)
    return app


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    app = with_large_answers(FakeServing().app())
    with serve(app, http=guarded_protocol(LIMITS)) as url:
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


def exchange(address: tuple[str, int], *pieces: bytes, pause: float = 0.0) -> tuple[int, dict]:
    """Send the pieces; returns status and body of the one answer, read to the connection's end."""
    with socket.create_connection(address, timeout=30) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break  # Refused before it was all sent.
            time.sleep(pause)
        received = b""
        try:
            while more := connection.recv(65536):
                received += more
        except ConnectionResetError:
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


def test_a_head_over_the_limit_is_431(address: tuple[str, int]) -> None:
    for head in (
        b"GET /version HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /version HTTP/1.1\r\nhost: x\r\n" + b"x: a\r\n" * 1000 + b"\r\n",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /version HTTP/1.1\r\nhost: x\r\nendless: " + b"a" * 300_000,
    ):
        status, body = exchange(address, head)
        assert (status, body["error"]["code"]) == (431, "headers_too_large")


def test_a_head_that_does_not_come_is_408(address: tuple[str, int]) -> None:
    for pieces in ((b"",), (b"GET /version HTTP/1.1\r\nhost: x\r\n",)):
        status, body = exchange(address, *pieces)
        assert (status, body["error"]["code"]) == (408, "request_timeout")


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /version HTTP/9.9\r\n\r\n",
        b"GET /version HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: nine\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_the_apis_words(
    address: tuple[str, int], head: bytes
) -> None:
    status, body = exchange(address, head)
    assert status == 400
    assert body["error"]["type"] == "invalid_request_error"


def test_a_reader_that_does_not_read_is_cut_off(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262_144)
        connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(2.0)  # Longer than write_seconds; what the kernels buffered is still there.
        received = 0
        try:
            while more := connection.recv(1 << 20):
                received += len(more)
        except ConnectionResetError:
            pass
    assert received < 20_000_000


def test_an_honest_connection_is_kept(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(2):
            connection.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200 OK" in connection.recv(65536)
            time.sleep(0.2)


def test_beyond_the_connections_health_is_answered_and_the_rest_is_503() -> None:
    limits = ConnectionLimits(max_connections=2, num_reserved=1)
    with serve(FakeServing().app(), http=guarded_protocol(limits)) as url:
        host, port = url.removeprefix("http://").split(":")
        address = (host, int(port))
        held = [socket.create_connection(address) for _ in range(2)]
        try:
            for connection in held:
                connection.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            request = b"%s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            assert exchange(address, request % b"GET /health/live")[0] == 200
            status, body = exchange(address, request % b"GET /v1/models")
            assert (status, body["error"]["code"]) == (503, "too_many_connections")
            with socket.create_connection(address) as third:
                third.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                third.recv(65536)
                assert exchange(address)[0] == 503, "the reserved places are taken too"
        finally:
            for connection in held:
                connection.close()
