"""Around every HTTP request: its id, one line in the log, one count in the metrics."""

import logging
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.request_facts import CURRENT_FACTS, RequestFacts
from server.api.telemetry.metrics import HttpMetrics, route_of
from server.api.telemetry.request_ids import CURRENT_REQUEST_ID, HEADER, request_id_from

logger = logging.getLogger("server.access")

_QUIET = frozenset({"/health/live", "/health/ready", "/metrics"})


class RequestLogMiddleware:
    """The outermost middleware. Counts an answer when it begins, so that endless streams are seen.

    The log has no query, no body and no text of anybody's; probes and scrapes are logged at debug.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER)
        request_id = request_id_from(given)
        facts, status, answer_id = RequestFacts(), 0, None
        is_complete = False

        async def observing_send(message: Message) -> None:
            nonlocal status, answer_id, request_id, is_complete
            if not status and message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                answer_id = headers.get(HEADER)
                if answer_id is not None and request_id != given:
                    request_id = answer_id  # One id less for whoever didn't bring one.
                    CURRENT_REQUEST_ID.set(request_id)
                headers[HEADER] = request_id
                self._metrics.count(scope, status)
            await send(message)
            if message["type"] == "http.response.body":
                is_complete = not message.get("more_body", False)

        token, facts_token = CURRENT_REQUEST_ID.set(request_id), CURRENT_FACTS.set(facts)
        try:
            await self._app(scope, receive, observing_send)
        except Exception:
            if not status:
                status, facts.error_code = 500, "internal_error"
                self._metrics.count(scope, status)
            logger.exception("a request failed on a mistake of the server's")
            if not is_complete:  # The connection must be cut: its answer has no end.
                raise
        finally:
            CURRENT_REQUEST_ID.set(request_id)
            self._write(scope, status, answer_id, facts)
            CURRENT_FACTS.reset(facts_token)
            CURRENT_REQUEST_ID.reset(token)

    def _write(self, scope: Scope, status: int, answer_id: str | None, facts: RequestFacts) -> None:
        level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
        if not logger.isEnabledFor(level):
            return
        caller = scope.get("state", {}).get("caller")
        seconds = time.perf_counter() - facts.started
        extra: dict[str, Any] = {
            "method": scope["method"],
            "route": route_of(scope),
            "status": status,
            "seconds": round(seconds, 4),
            **facts.as_fields(),
        }
        if answer_id not in (None, CURRENT_REQUEST_ID.get()):
            extra["answer_id"] = answer_id
        if caller is not None and caller.key_id:
            extra |= {"key": caller.name, "key_id": caller.key_id}
        who = f", key {caller.name} ({caller.key_id})" if "key_id" in extra else ""
        what = f": {text}" if (text := facts.as_text()) else ""
        logger.log(
            level, "%s %s %d in %.3f s%s%s", extra["method"], extra["route"], status, seconds, what,
            who, extra=extra,
        )  # fmt: skip
