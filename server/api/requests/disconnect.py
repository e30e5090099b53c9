"""Notices a client that goes away before its answer has begun."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from server.api.errors import ClientGoneError

Result = TypeVar("Result")


async def await_while_connected(
    task: asyncio.Task[Any], receive: Receive, timeout_seconds: float | None = None
) -> None:
    """Wait until `task` is done, or for `timeout_seconds` (None = as long as it takes).

    The request's body must have been read. When the client leaves, or the caller is cancelled, the
    task is cancelled and has ended by the time this returns; the former raises `ClientGoneError`.
    """
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait(
            {task, gone}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if gone.done() and not task.done():
            gone.result()
            raise ClientGoneError("the client closed the connection")
    except BaseException:
        await cancel(task)
        raise
    finally:
        gone.cancel()


async def while_connected(work: Coroutine[Any, Any, Result], request: Request) -> Result:
    """What `work` returns; dropped when the client leaves meanwhile. The body must have been read.

    Raises what `work` raises, and `ClientGoneError`.
    """
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    if not task.done():  # what waits for nothing needs no watch
        await await_while_connected(task, request.receive)
    return task.result()


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait for its end, whatever that is."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
