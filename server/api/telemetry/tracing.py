"""OpenTelemetry spans of requests, where somebody collects them (extra `trace`).

One span a request, part of the caller's trace when it sends a W3C `traceparent`; in it, for each
generation, the wait in the queue, the prompt, and the tokens behind the first one.
"""

import logging
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.telemetry.metrics import route_of
from server.api.telemetry.request_ids import CURRENT_REQUEST_ID
from server.core.errors import ConfigurationError
from server.core.ports import GenerationEngine
from server.core.request import GenerationDelta, GenerationRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

_NANOSECONDS = 1_000_000_000


def tracer_provider(endpoint: str, version: str) -> "TracerProvider":
    """Sends spans to an OTLP collector at `endpoint`; `shutdown()` it to send the last ones.

    Raises `ConfigurationError` when the extra isn't installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from server.api.telemetry.quiet_exporter import QuietExporter
    except ImportError as error:
        raise ConfigurationError(
            [f"trace_endpoint needs OpenTelemetry: pip install 'switchyard[trace]' ({error})"]
        ) from error
    resource = Resource.create({"service.name": "switchyard", "service.version": version})
    provider = TracerProvider(resource=resource)
    library_logger = logging.getLogger(OTLPSpanExporter.__module__)
    exporter = QuietExporter(OTLPSpanExporter(endpoint), endpoint, library_logger)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class TraceMiddleware:
    """A server span around each request; probes and scrapes have none."""

    def __init__(self, app: ASGIApp, tracer: "Tracer") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._app = app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(("/health", "/metrics")):
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        parent = self._propagator.extract(dict(Headers(scope=scope)))
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method, context=parent, kind=SpanKind.SERVER, record_exception=False
        ) as span:

            async def observing_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            span.set_attribute("http.request.method", method)
            span.set_attribute("switchyard.request_id", CURRENT_REQUEST_ID.get() or "")
            try:
                await self._app(scope, receive, observing_send)
            finally:
                route = route_of(scope)
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)


class TracedEngine:
    """Implements `GenerationEngine` over another one: spans of what happens to a generation."""

    def __init__(self, engine: GenerationEngine, tracer: "Tracer") -> None:
        self._engine = engine
        self._tracer = tracer

    @property
    def is_ready(self) -> bool:
        return self._engine.is_ready

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationDelta]:
        """See `GenerationEngine.generate`."""
        started, first, num_tokens, queued_seconds = time.time_ns(), 0, 0, 0.0
        deltas = self._engine.generate(request)
        try:
            async for delta in deltas:
                if delta.beginning is not None:
                    queued_seconds = delta.beginning.queued_seconds
                if not first and delta.num_tokens:
                    first = time.time_ns()
                    queued = int(queued_seconds * _NANOSECONDS)
                    self._span("queue", request, started, started + queued)
                    self._span(
                        "prefill", request, started + queued, first,
                        num_tokens=len(request.prompt_token_ids),
                    )  # fmt: skip
                num_tokens += delta.num_tokens
                yield delta
        finally:
            now = time.time_ns()
            if first:
                self._span("decode", request, first, now, num_tokens=num_tokens)
            else:
                self._span("queue", request, started, now)
            if isinstance(deltas, AsyncGenerator):
                await deltas.aclose()

    def _span(
        self, name: str, request: GenerationRequest, start: int, end: int, *, num_tokens: int = 0
    ) -> None:
        span = self._tracer.start_span(name, start_time=start)
        span.set_attribute("switchyard.adapter", request.stack.label)
        span.set_attribute("switchyard.answer_id", request.request_id)
        if num_tokens:
            span.set_attribute("switchyard.num_tokens", num_tokens)
        span.end(end_time=end)
