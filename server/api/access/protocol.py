"""HTTP/1.1 on a socket, for clients that mean no good: bounded heads, bounded patience.

uvicorn's httptools protocol bounds neither the size of a request's head nor the time it takes, and
waits for ever for a client that doesn't read. This subclass does all three.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from server.api.errors import (
    HeadersTooLargeError,
    SlowBodyError,
    TooManyConnectionsError,
    error_response,
)
from server.core.errors import RequestError, SwitchyardError


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may cost.

    A request's line and headers must fit in `max_head_bytes` and come within `head_seconds`; a
    message may have `max_message_bytes` on the wire. A client that reads nothing for
    `write_seconds` while an answer waits for it is cut off.

    Up to `max_connections` are open at once. `num_reserved` more may ask for what `is_reserved`
    says: health, metrics and administration are answered when everything else is full.
    """

    max_head_bytes: int = 32 * 1024
    max_message_bytes: int = 16 * 1024 * 1024
    head_seconds: float = 15.0
    write_seconds: float = 60.0
    max_connections: int = 1024
    num_reserved: int = 32


_RESERVED = ("/health", "/metrics", "/version", "/v1/adapters", "/v1/load_lora_adapter",
             "/v1/unload_lora_adapter")  # fmt: skip


def is_reserved(path: str) -> bool:
    """Whether `path` is answered when the connections for generation are used up."""
    return path.startswith(_RESERVED)


def guarded_protocol(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """The protocol class for `uvicorn.Config(http=...)`."""

    class BoundGuardedProtocol(GuardedProtocol):
        _limits = limits

    return BoundGuardedProtocol


class GuardedProtocol(HttpToolsProtocol):
    """See the module docstring. Use `guarded_protocol` to give it its limits."""

    _limits = ConnectionLimits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = True
        self._num_bytes = 0  # of this message so far
        self._refusal: SwitchyardError | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections + self._limits.num_reserved:
            self._refuse(self._too_many())
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._num_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head and self._num_bytes:
            if self._num_bytes > self._limits.max_head_bytes:
                self._refuse(self._head_too_large())
            elif self._head_timer is None:
                self._start_head_timer()
        elif self._num_bytes > self._limits.max_message_bytes:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # Trailers are nobody's headers.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        num_bytes = len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
        if num_bytes > self._limits.max_head_bytes:
            self._refusal = self._head_too_large()
            raise self._refusal
        is_over = len(self.connections) > self._limits.max_connections
        if is_over and not is_reserved(self.url.partition(b"?")[0].decode("latin-1")):
            self._refusal = self._too_many()
            raise self._refusal
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_head = True
        self._num_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses, as the API's own error object."""
        self._refuse(self._refusal or RequestError("this is no HTTP request that can be read"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        # close() would wait until the rest of the last answer is read; nobody reads it.
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _too_many(self) -> TooManyConnectionsError:
        return TooManyConnectionsError(
            f"this server has {self._limits.max_connections} connections open, which is its limit "
            "(setting max_connections); try again in a moment"
        )

    def _head_too_large(self) -> HeadersTooLargeError:
        return HeadersTooLargeError(
            f"the request line and headers have more than {self._limits.max_head_bytes} bytes; "
            "send fewer or shorter headers"
        )

    def _refuse(self, error: SwitchyardError) -> None:
        # An answer that has begun on this connection can't be followed by another status.
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        response = error_response(error)
        head = [STATUS_LINE[response.status_code]]
        for name, value in response.raw_headers:
            if name != b"connection":
                head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", response.body]))
        self.transport.close()

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _head_is_late(self) -> None:
        if not self.transport.is_closing():
            self._refuse(
                SlowBodyError(
                    f"the request's headers weren't complete after {self._limits.head_seconds:g} s"
                )
            )
