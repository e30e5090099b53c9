"""One id for each HTTP request: the client's own, or a new one; in the answer and in the log."""

import re
import secrets
from contextvars import ContextVar

HEADER = "x-request-id"

# What may stand in a log line and a header without quoting.
_ACCEPTED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)

CURRENT_REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that the running task belongs to; log records carry it."""


def request_id_from(header: str | None) -> str:
    """`header` if it may be an id, else a new one."""
    if header is not None and _ACCEPTED.fullmatch(header):
        return header
    return "req-" + secrets.token_hex(12)
