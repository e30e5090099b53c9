"""What goes over the wire between the server and a process that renders chat templates.

Up: the order as JSON behind its length and the milliseconds it may take. Down: how it went, whether
the process should be replaced, and a text, behind the length of all three. Big-endian.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from server.core.chat import RenderOrder

ORDER_HEAD = struct.Struct("!II")
"""Bytes of JSON that follow; milliseconds until the process ends itself."""

REPLY_HEAD = struct.Struct("!I")
"""Bytes of the reply that follow."""

MAX_REASON_CHARS = 2000
"""What a template says about its failure may be as long as it likes."""

# In UTF-8 no character takes more; beside the text come two flags, or the reason of a failure.
_BYTES_PER_CHAR = 4


class Outcome(Enum):
    """How a rendering went, as the first byte of a reply."""

    RENDERED = b"t"
    REFUSED = b"e"
    OUT_OF_MEMORY = b"m"
    TOO_LONG = b"o"


@dataclass(frozen=True, slots=True)
class Reply:
    """`text` is what was rendered, or why it wasn't. `is_spent`: start another process."""

    outcome: Outcome
    text: str = ""
    is_spent: bool = False

    def encoded(self) -> bytes:
        """With its head."""
        body = self.outcome.value + (b"1" if self.is_spent else b"0")
        body += self.text.encode("utf-8", "replace")
        return REPLY_HEAD.pack(len(body)) + body


def reply_of(body: bytes) -> Reply:
    """What `Reply.encoded` made, less its head. Raises `ValueError` for anything else."""
    text = body[2:].decode()
    return Reply(Outcome(body[:1]), text, body[1:2] == b"1")


def max_reply_bytes(max_chars: int) -> int:
    """No honest reply is longer."""
    return _BYTES_PER_CHAR * max(max_chars, MAX_REASON_CHARS) + 2


def order_body(order: RenderOrder) -> bytes:
    """`order` for the process. Raises `ValueError` or `RecursionError` for what JSON can't say."""
    fields: Mapping[str, Any] = {
        "template": order.template,
        "messages": [dict(message) for message in order.messages],
        "tools": [dict(tool) for tool in order.tools],
        "variables": dict(order.variables),
        "adds_generation_prompt": order.adds_generation_prompt,
        "continues_final_message": order.continues_final_message,
        "max_chars": order.max_chars,
    }
    return json.dumps(fields).encode()


def order_of(body: bytes) -> RenderOrder:
    """What `order_body` made; its owner and mark stay with the server."""
    return RenderOrder(owner="", **json.loads(body))
