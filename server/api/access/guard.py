"""The door: who may come in, and whether anybody may at the moment."""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.access.callers import Caller, CurrentCaller, Right
from server.api.access.deadlines import HEADER as TIMEOUT_HEADER
from server.api.access.deadlines import CurrentDeadline
from server.api.access.drain import Drain
from server.api.access.keys import KeyRing
from server.api.access.rate_limits import RateLimits
from server.api.access.rights import right_for
from server.api.access.route_table import route_for
from server.api.errors import (
    AuthenticationError,
    PermissionDeniedError,
    SlowBodyError,
    error_response,
)
from server.api.requests.side_work import SideWork
from server.core.errors import DeadlineExceededError, OverloadedError, SwitchyardError

_LATE_SECONDS = 0.25
"""The engine ends what it has by itself, with more to say; this is for every other phase."""


class Door:
    """Checks keys, rights and request rates. Without a key ring everybody may do everything.

    `metrics_are_open` lets Prometheus in without a key, to series summed over adapters.
    """

    def __init__(
        self,
        keys: KeyRing | None,
        limits: RateLimits,
        *,
        anyone: Caller,
        metrics_are_open: bool = True,
    ) -> None:
        self._keys = keys
        self._limits = limits
        self._anyone = anyone
        self._metrics_are_open = metrics_are_open

    def admit(
        self,
        method: str,
        path: str,
        authorization: str,
        identified: Callable[[Caller], None] = lambda _: None,
    ) -> Caller:
        """The caller of a request. `identified` is told who it is even if it may not pass.

        Raises `AuthenticationError`, `PermissionDeniedError` or `RateLimitedError`.
        """
        if self._keys is None:
            return self._anyone
        right = right_for(method, path)
        if right is None:
            return self._anyone
        if right is Right.METRICS and self._metrics_are_open:
            # Without a key that may, the series name no adapters.
            caller_or_none = self._keys.caller_of(_bearer(authorization))
            return caller_or_none or self._anyone
        caller = self._caller(self._keys, authorization)
        identified(caller)
        if right not in caller.rights:
            held = ", ".join(sorted(r.value for r in caller.rights)) or "none"
            raise PermissionDeniedError(
                f"{method} {path} needs the right '{right.value}'; the rights of this key: {held}"
            )
        route = route_for(method, path)
        if route is not None and route.rate_cost:
            self._limits.take_request(caller, route.rate_cost)
        return caller

    def _caller(self, keys: KeyRing, authorization: str) -> Caller:
        key = _bearer(authorization)
        if not key:
            raise AuthenticationError(
                "this server asks for an API key: send it as the header 'Authorization: Bearer KEY'"
            )
        caller = keys.caller_of(key)
        if caller is None:
            raise AuthenticationError(
                "incorrect API key: this server doesn't know it, or it was revoked"
            )
        return caller


def _bearer(authorization: str) -> str:
    """The key in an `Authorization` header; empty when there is none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class BodyBytes:
    """Bytes of all bodies that are being received or answered; at most `limit` at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Raises `OverloadedError`, and counts nothing, when it would be too much."""
        if self.num_bytes + num_bytes > self._limit:
            raise OverloadedError(
                f"the bodies of the requests in this server have {self.num_bytes} bytes; it holds "
                f"up to {self._limit} at once. Try again in a moment"
            )
        self.num_bytes += num_bytes

    def remove(self, num_bytes: int) -> None:
        """What was added is gone."""
        self.num_bytes -= num_bytes
        assert self.num_bytes >= 0


class GuardMiddleware:
    """Stops what may not pass, and says to the rest of the application who asks."""

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        current: CurrentCaller,
        deadline: CurrentDeadline,
        drain: Drain,
        body_seconds: float,
        body_bytes: BodyBytes,
        side_work: SideWork,
    ) -> None:
        self._app = app
        self._door = door
        self._current = current
        self._deadline = deadline
        self._drain = drain
        self._body_seconds = body_seconds
        self._body_bytes = body_bytes
        self._side_work = side_work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        try:
            with self._drain.entered(path):
                state = scope.setdefault("state", {})
                state["side_work"] = self._side_work
                authorization = headers.get("authorization", "")
                caller = self._door.admit(
                    method, path, authorization, lambda who: state.update(caller=who)
                )
                with self._current.set(caller), self._deadline.begun(headers.get(TIMEOUT_HEADER)):
                    await self._in_time(scope, receive, send)
        except SwitchyardError as error:
            await error_response(error)(scope, receive, send)

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in until its deadline; once the answer has begun the engine minds it."""
        seconds = self._deadline.remaining_seconds()
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await timed_receive()
            num_bytes = len(message.get("body", b""))
            self._body_bytes.add(num_bytes)
            received += num_bytes
            return message

        async def noticed_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not limit.expired():
                limit.reschedule(None)
            await send(message)

        timed_receive = self._timed(receive)
        try:
            async with asyncio.timeout(
                None if seconds is None else seconds + _LATE_SECONDS
            ) as limit:
                await self._app(scope, counted_receive, noticed_send)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceededError(
                f"the answer hadn't begun after {seconds:.3g} s; give it more time "
                "(header x-request-timeout, setting request_timeout_seconds), or ask for less"
            ) from error
        finally:
            self._body_bytes.remove(received)

    def _timed(self, receive: Receive) -> Receive:
        """`receive`, which raises `SlowBodyError` when the whole body takes too long."""
        loop = asyncio.get_running_loop()
        deadline, is_complete = loop.time() + self._body_seconds, False

        async def timed_receive() -> Message:
            nonlocal is_complete
            if is_complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise SlowBodyError(
                    f"the request's body wasn't complete after {self._body_seconds:g} s; send it "
                    "again in one go"
                ) from error
            is_complete = not message.get("more_body", False)
            return message

        return timed_receive
