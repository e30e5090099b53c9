"""Spans: their names, their family, and a collector that really gets them."""

import logging
import socket
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.api.telemetry.quiet_exporter import QuietExporter
from server.api.telemetry.tracing import tracer_provider
from tests.fakes.api_app import FakeServing
from tests.fakes.api_engine import FakeEngine

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = {"model": "sql", "prompt": "hello", "max_tokens": 4}


async def spans_of(serving: FakeServing, *, path: str = "/v1/completions") -> list[ReadableSpan]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    serving.tracer = provider.get_tracer("test")
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "x-request-id": "mine"}
        if path == "/v1/completions":
            await client.post(path, json=BODY, headers=headers)
        else:
            await client.get(path, headers=headers)
    return list(exporter.get_finished_spans())


async def test_a_request_is_a_family_in_the_callers_trace() -> None:
    spans = {span.name: span for span in await spans_of(FakeServing())}
    assert set(spans) == {"POST /v1/completions", "queue", "prefill", "decode"}
    request = spans["POST /v1/completions"]
    assert request.parent is not None
    assert format(request.parent.span_id, "016x") == PARENT_ID
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["switchyard.request_id"] == "mine"
    for name in ("queue", "prefill", "decode"):
        child = spans[name]
        assert format(child.context.trace_id, "032x") == TRACE_ID
        assert child.parent is not None
        assert child.parent.span_id == request.context.span_id
        assert child.attributes is not None
        assert child.attributes["switchyard.adapter"] == "sql"
    assert spans["queue"].end_time <= spans["prefill"].end_time <= spans["decode"].end_time  # type: ignore[operator]
    assert spans["decode"].attributes["switchyard.num_tokens"] == 4  # type: ignore[index]


async def test_failures_are_marked_and_probes_are_left_out() -> None:
    spans = await spans_of(FakeServing(FakeEngine(error=RuntimeError("bug"))))
    request = next(span for span in spans if span.name == "POST /v1/completions")
    assert not request.status.is_ok
    assert await spans_of(FakeServing(), path="/health/live") == []


def test_a_collector_gets_the_spans() -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever, daemon=True)
    thread.start()
    try:
        provider = tracer_provider(f"http://127.0.0.1:{collector.server_port}/v1/traces", "1.2.3")
        provider.get_tracer("t").start_span("a-span-of-ours").end()
        provider.shutdown()
    finally:
        collector.shutdown()
        collector.server_close()
        thread.join(10)
    assert b"a-span-of-ours" in b"".join(bodies)
    assert b"switchyard" in b"".join(bodies)


class FlakyExporter(SpanExporter):
    """Fails while `is_away`, and says so as the library does."""

    def __init__(self, library_logger: logging.Logger) -> None:
        self.is_away = False
        self._logger = library_logger

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self.is_away:
            return SpanExportResult.SUCCESS
        self._logger.error("Failed to export span batch: connection refused")
        return SpanExportResult.FAILURE


def test_an_absent_collector_is_told_once_and_its_return_with_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    library = logging.getLogger("tests.the_library")
    inner = FlakyExporter(library)
    exporter = QuietExporter(inner, "http://collector", library)
    span = TracerProvider().get_tracer("t").start_span("s")
    assert isinstance(span, ReadableSpan)

    def told(*is_away: bool) -> list[str]:
        caplog.clear()
        for inner.is_away in is_away:
            exporter.export([span, span])
        return [record.getMessage() for record in caplog.records]

    assert told(False) == []
    [first] = told(*[True] * 20)
    assert "no traces can be sent to http://collector" in first
    assert "connection refused" in first
    assert told(False, False) == ["the trace collector at http://collector answers again; "
                                  "40 spans were lost"]  # fmt: skip
    assert len(told(True)) == 1
    caplog.clear()
    exporter.shutdown()
    assert "2 spans were lost" in caplog.text
    library.error("somebody else's")
    assert "somebody else's" in caplog.text


def test_nobody_listens_and_the_log_stays_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    provider = tracer_provider(f"http://127.0.0.1:{port}/v1/traces", "1")
    for _ in range(3):
        provider.get_tracer("t").start_span("lost").end()
    provider.shutdown()
    assert [r.name for r in caplog.records if r.levelno >= logging.WARNING] == [
        "server.api.telemetry.quiet_exporter"
    ] * len(caplog.records)
    assert 1 <= len(caplog.records) <= 2


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from server.core.errors import ConfigurationError

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"switchyard\[trace\]"):
        tracer_provider("http://127.0.0.1:1", "1")
