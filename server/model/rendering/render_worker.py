"""The process that runs chat templates: `python -m` this module, with SERVER_PID and MIB.

A template is a program that somebody sent along with an adapter. Here it can loop, fill its memory
or crash and harm nobody: the process has a bound on its memory, a clock that the kernel keeps, no
files to write, no secrets in its environment, and its end is its server's end. It imports
transformers' templates but no torch, so it starts in half a second and takes some 60 MB.

Orders come and replies go over standard input, a socket; see `render_frames`. The first reply says
that it is ready.
"""

import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from server.core.chat import RenderOrder
from server.model.rendering.render_frames import (
    MAX_REASON_CHARS,
    ORDER_HEAD,
    Outcome,
    Reply,
    order_of,
)

_MIB = 1 << 20
_PR_SET_PDEATHSIG = 1


def rendered(order: RenderOrder) -> str:
    """The text of `order`, as transformers' `apply_chat_template` would render it.

    Raises whatever the template raises.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    if not order.messages:
        raise ValueError("there is no message; give at least one")
    # As apply_chat_template does it: templates test for a missing key, not for null.
    messages = [{k: v for k, v in m.items() if v is not None} for m in order.messages]
    texts, _ = render_jinja_template(
        conversations=[messages],
        tools=[dict(tool) for tool in order.tools] or None,
        chat_template=order.template,
        return_assistant_tokens_mask=False,
        continue_final_message=order.continues_final_message,
        add_generation_prompt=order.adds_generation_prompt,
        **order.variables,
    )
    text: str = texts[0]
    return text


def reply_to(body: bytes) -> Reply:
    """The reply to one order. Never raises."""
    try:
        order = order_of(body)
        text = rendered(order)
        if len(text) > order.max_chars:
            return Reply(Outcome.TOO_LONG)
        text.encode()  # Half a character is no text: no tokenizer could read it.
        return Reply(Outcome.RENDERED, text)
    except MemoryError:
        return Reply(Outcome.OUT_OF_MEMORY, is_spent=True)
    except RecursionError:
        return Reply(Outcome.REFUSED, "it calls itself, or is nested, too deep")
    except Exception as error:  # noqa: BLE001 - whatever a template raises is its failure
        return Reply(Outcome.REFUSED, _reason(error))


def _reason(error: Exception) -> str:
    try:
        return str(error)[:MAX_REASON_CHARS] or type(error).__name__
    except Exception:  # noqa: BLE001 - its text is made of what the template gave it
        return type(error).__name__


class _Worker:
    """Answers orders until the server closes its end."""

    def __init__(self, connection: socket.socket, max_bytes: int) -> None:
        self._orders = connection.makefile("rb")
        self._connection = connection
        self._max_bytes = max_bytes
        self._start_bytes = _address_space_bytes()

    def run(self) -> None:
        with contextlib.suppress(ValueError, OSError):  # Not everywhere can it be set.
            limit = self._start_bytes + self._max_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        self._send(Reply(Outcome.RENDERED))
        while head := self._orders.read(ORDER_HEAD.size):
            num_bytes, milliseconds = ORDER_HEAD.unpack(head)
            body = self._orders.read(num_bytes)
            # Kept by the kernel: it ends even what never returns to Python, and needs no server.
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
            reply = reply_to(body)
            signal.setitimer(signal.ITIMER_REAL, 0)
            del body
            self._send(Reply(reply.outcome, reply.text, reply.is_spent or self._is_spent()))

    def _send(self, reply: Reply) -> None:
        self._connection.sendall(reply.encoded())

    def _is_spent(self) -> bool:
        """Whether so much memory stays behind that the next order wouldn't have half of it."""
        if _address_space_bytes() - self._start_bytes < self._max_bytes // 2:
            return False
        gc.collect()
        return _address_space_bytes() - self._start_bytes >= self._max_bytes // 2


def _address_space_bytes() -> int:
    """What the limit on address space is compared with; 0 where there is no /proc (proc(5))."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def _end_with(server_pid: int) -> None:
    """Let the kernel end this process with the server, however that ends (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server_pid:
        sys.exit(1)


def main() -> None:
    """The process."""
    server_pid, mib = map(int, sys.argv[1:])
    _end_with(server_pid)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))
    connection = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    with contextlib.suppress(Exception):
        # Imports and makes everything that a first template needs.
        rendered(RenderOrder("", "{{ messages[0].content | tojson }}", [{"content": ""}]))
    with connection, contextlib.suppress(OSError):
        _Worker(connection, mib * _MIB).run()


if __name__ == "__main__":
    main()
