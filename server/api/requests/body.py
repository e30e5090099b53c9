"""Reads a request's JSON body into its schema, or says what is wrong with it."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request

from server.api.errors import BodyTooLargeError, ClientGoneError
from server.api.requests.body_process import checked, parsed
from server.api.requests.disconnect import await_while_connected
from server.api.requests.side_work import SideWork
from server.core.errors import RequestError

MAX_INLINE_BYTES = 32 * 1024
"""Shorter bodies are read on the event loop: at worst, of nothing but numbers, in some 5 ms."""

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, schema: type[Body], max_bytes: int) -> Body:
    """The parsed body.

    Raises `BodyTooLargeError` as soon as more than `max_bytes` are announced or came,
    `ClientGoneError` when the rest never comes, and `RequestError` naming every field that is wrong
    (`param` is the first).
    """
    _check_content_type(request)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(int(announced), max_bytes)
    try:
        content = await _bytes(request, max_bytes)
    except ClientDisconnect as error:
        raise ClientGoneError("the client went away before its request was complete") from error
    side: SideWork | None = getattr(request.state, "side_work", None)
    if len(content) > MAX_INLINE_BYTES and side is not None:
        parsing = asyncio.create_task(side.parse(schema, content))
        await await_while_connected(parsing, request.receive)
        return parsing.result()
    return checked(schema, parsed(schema, content))


def _check_content_type(request: Request) -> None:
    # A web page can post text/plain or a form to any address unasked; it can't post JSON.
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(
            f"the body must be JSON, and Content-Type is {content_type or 'missing'!r}: "
            "send Content-Type: application/json"
        )


async def _bytes(request: Request, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    num_bytes = 0
    async for piece in request.stream():
        num_bytes += len(piece)
        if num_bytes > max_bytes:
            raise _too_large(num_bytes, max_bytes)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(num_bytes: int, max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the request body has {num_bytes} bytes or more; this server takes up to {max_bytes}. "
        "Send a shorter prompt"
    )
