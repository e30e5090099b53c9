"""The benchmark's client: framing, events, timings, and a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from loadtests.harness.http_client import (
    HttpClientError,
    HttpConnection,
    ResponseParser,
    SseParser,
    StreamRecord,
    read_timings,
)
from tests.unit.loadtests.fake_server import Handler, listening

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Digest: abc\r\n\r\n"
    b"5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("step", [1, 2, 3, 7, len(CHUNKED)])
def test_chunked_body_is_the_same_however_it_is_cut(step: int) -> None:
    parser = ResponseParser()
    body = b"".join(parser.feed(CHUNKED[i : i + step]) for i in range(0, len(CHUNKED), step))
    assert body == b"hello, world"
    assert parser.is_complete
    assert parser.status == 200
    assert parser.headers["x-digest"] == "abc"


def test_content_length_completes_the_body() -> None:
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nno") == b"no"
    assert not parser.is_complete
    assert parser.feed(b"pe") == b"pe"
    assert parser.is_complete
    assert parser.status == 404


def test_empty_body_is_complete_with_its_headers() -> None:
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert parser.is_complete


def test_body_without_length_ends_with_the_connection() -> None:
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.0 200 OK\r\n\r\nall of it") == b"all of it"
    assert not parser.is_complete
    parser.end_of_connection()
    assert parser.is_complete


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP/1 answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not a chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "doesn't end where"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc", "more bytes"),
        (b"x" * 70_000, "response headers"),
    ],
)
def test_broken_framing_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(HttpClientError, match=message):
        ResponseParser().feed(data)


def test_early_end_is_an_error() -> None:
    parser = ResponseParser()
    parser.feed(CHUNKED[:-7])
    with pytest.raises(HttpClientError, match="in the middle"):
        parser.end_of_connection()


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_events_are_the_same_however_they_are_cut(step: int) -> None:
    text = b': ping\n\nevent: x\ndata: {"a": 1}\n\ndata:two\ndata: lines\r\n\r\ndata: [DONE]\n\n'
    parser = SseParser()
    payloads = [p for i in range(0, len(text), step) for p in parser.feed(text[i : i + step])]
    assert payloads == [b'{"a": 1}', b"two\nlines", b"[DONE]"]


def test_an_unfinished_event_is_held_back() -> None:
    parser = SseParser()
    assert parser.feed(b"data: 1\n") == []
    assert parser.feed(b"\n") == [b"1"]


def chunk(text: str | None = None, **more: object) -> bytes:
    delta = {"role": "assistant"} if text is None else {"content": text}
    return json.dumps({"choices": [{"index": 0, "delta": delta}], **more}).encode()


def usage(num_tokens: int) -> bytes:
    return json.dumps({"choices": [], "usage": {"completion_tokens": num_tokens}}).encode()


def record(*payloads: bytes) -> StreamRecord:
    arrivals = [10.0 + index for index in range(len(payloads))]
    return StreamRecord(9.0, arrivals[-1] if arrivals else 9.0, arrivals, list(payloads))


def test_timings_count_text_and_take_tokens_from_usage() -> None:
    timings = read_timings(
        record(chunk(None), chunk("He"), chunk(""), chunk("llo"), usage(5), b"[DONE]")
    )
    assert timings.text == "Hello"
    assert timings.ttft_seconds == 2.0  # the role chunk at 10.0 isn't text
    assert timings.gaps_seconds == (2.0,)
    assert timings.num_tokens == 5


def test_without_usage_each_piece_of_text_is_a_token() -> None:
    completion = json.dumps({"choices": [{"text": "b"}]}).encode()
    assert read_timings(record(chunk("a"), completion, b"[DONE]")).num_tokens == 2


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ((chunk("a"), b'{"error": {"message": "boom"}}', b"[DONE]"), "boom"),
        ((chunk("a"),), "without \\[DONE\\]"),
        ((chunk(None), b"[DONE]"), "no text"),
    ],
)
def test_a_stream_that_failed_gives_no_timings(payloads: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(HttpClientError, match=message):
        read_timings(record(*payloads))


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        (
            int(line.split(":")[1])
            for line in head.lower().split("\r\n")
            if "content-length" in line
        ),
        0,
    )
    return head.split("\r\n", 1)[0], await reader.readexactly(length)


@asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[HttpConnection]:
    async with listening(handler) as url:
        with closing(HttpConnection(url)) as connection:
            yield connection


async def test_a_stream_over_a_socket() -> None:
    seen: list[tuple[str, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            seen.append(await read_request(reader))
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for payload in (chunk("a"), chunk("b"), usage(2), b"[DONE]"):
                event = b"data: " + payload + b"\n\n"
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

    async with connected(handler) as connection:
        first = await connection.stream("/v1/chat/completions", {"model": "m"})
        second = await connection.stream("/v1/chat/completions", {"model": "n"})
    assert [read_timings(item).text for item in (first, second)] == ["ab", "ab"]
    assert seen[0] == ("POST /v1/chat/completions HTTP/1.1", b'{"model": "m"}')
    assert seen[1][1] == b'{"model": "n"}'
    assert first.started <= first.arrivals[0] <= first.arrivals[-1] <= first.finished


async def test_an_error_status_carries_the_servers_words() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno such")

    async with connected(handler) as connection:
        with pytest.raises(HttpClientError, match="answered 404: no such"):
            await connection.stream("/v1/chat/completions", {})


async def test_a_closed_connection_is_opened_again() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    async with connected(handler) as connection:
        assert await connection.get("/health/ready") == (200, "ok")
        assert await connection.get("/health/ready") == (200, "ok")


async def test_a_request_that_met_a_closing_connection_goes_out_again() -> None:
    num_connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await read_request(reader)  # and closes without a byte

    async with connected(handler) as connection:
        assert await connection.get("/health/ready") == (200, "ok")
        assert await connection.get("/health/ready") == (200, "ok")
        assert num_connections == 2
        connection.close()


async def test_a_cut_stream_is_an_error() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED[:-7])

    async with connected(handler) as connection:
        with pytest.raises(HttpClientError, match="in the middle"):
            await connection.stream("/", {})


async def test_no_server_is_an_error() -> None:
    connection = HttpConnection("http://127.0.0.1:1")
    with pytest.raises(HttpClientError, match="no server at"):
        await connection.get("/")


def test_an_address_needs_a_scheme() -> None:
    with pytest.raises(HttpClientError, match="no http"):
        HttpConnection("localhost:8000")
