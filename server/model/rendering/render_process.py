"""One process that renders chat templates, as the server's event loop sees it."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from typing import Self

from server.core.chat import RenderOrder
from server.model.rendering.render_frames import (
    ORDER_HEAD,
    REPLY_HEAD,
    Reply,
    max_reply_bytes,
    order_body,
    reply_of,
)

_START_SECONDS = 60.0
"""For the process to be ready: half a second of imports on an idle machine."""

_WARM_SECONDS = 5.0

_OWN_CLOCK_SECONDS = 1.0
"""The process's own clock ends it so much after the server's: the server may be held up, or gone.
"""

_REAP_SECONDS = 1.0
_LOOK_SECONDS = 0.002

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LC_TIME", "TZ", "LD_LIBRARY_PATH")
"""Of the environment, which may hold secrets. Templates can tell the time."""


class RenderProcess:
    """Owns a child process and the socket to it. Give it back with `end`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, memory_mib: int, warm_template: str = "") -> Self:
        """A process that is ready, and has compiled `warm_template` (in `_WARM_SECONDS`).

        Raises `OSError` (`TimeoutError` is one), `EOFError` or `ValueError`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _spawned(theirs, memory_mib)
            except BaseException:
                ours.close()
                raise
        try:
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            process.kill()
            process.wait()
            raise
        started = cls(process, reader, writer)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await started._reply(max_chars=0)
            if warm_template:
                async with asyncio.timeout(_WARM_SECONDS):
                    order = RenderOrder("", warm_template, [{"role": "user", "content": "Hello"}])
                    body, length = order_body(order), order.max_chars
                    await started.exchange(body, max_chars=length, seconds=_WARM_SECONDS)
        except BaseException:
            await started.end()
            raise
        return started

    @property
    def pid(self) -> int:
        """The child's."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone already."""
        return self._process.poll() is not None

    async def exchange(self, body: bytes, *, max_chars: int, seconds: float) -> Reply:
        """The reply to one order (see `render_frames.order_body`).

        Cancelling leaves the process busy: end it. Raises `OSError`, `EOFError` or `ValueError` for
        one that ends or talks nonsense.
        """
        milliseconds = int((seconds + _OWN_CLOCK_SECONDS) * 1000)
        self._writer.write(ORDER_HEAD.pack(len(body), milliseconds) + body)
        await self._writer.drain()
        return await self._reply(max_chars)

    async def end(self) -> str:
        """Kill it and take its status; how it ended, in words."""
        if self._process.poll() is None:
            self._process.kill()
        self._writer.close()
        deadline = time.monotonic() + _REAP_SECONDS
        try:
            # Nothing else tells it on every kind of event loop and off the main thread.
            while self._process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_SECONDS)
        except asyncio.CancelledError:
            self._reap()
            raise
        status = self._process.poll()
        if status is not None and status < 0:
            return f"by signal {-status}"
        return f"with status {status}"

    def _reap(self) -> None:
        """Wait for the end of what was killed: it takes no more than giving its memory back."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_SECONDS)

    async def _reply(self, max_chars: int) -> Reply:
        (num_bytes,) = REPLY_HEAD.unpack(await self._reader.readexactly(REPLY_HEAD.size))
        if num_bytes > max_reply_bytes(max_chars):
            raise ValueError(f"a reply of {num_bytes} bytes")
        return reply_of(await self._reader.readexactly(num_bytes))


def _spawned(connection: socket.socket, memory_mib: int) -> subprocess.Popen[bytes]:
    """Takes milliseconds however large this process is: Python's own doesn't copy page tables."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "server.model.rendering.render_worker"),
            *(str(os.getpid()), str(memory_mib)),
        ],
        stdin=connection.fileno(),
        stdout=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the server alone.
    )


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # The same code as here, wherever it came from; numpy shall start no threads.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
