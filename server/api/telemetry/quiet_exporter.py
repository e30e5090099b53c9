"""Spans to a collector that may be away: one warning, then quiet, then how many were lost.

Imports OpenTelemetry's SDK (extra `trace`), so it is imported where traces are asked for.
"""

import logging
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger(__name__)


class QuietExporter(SpanExporter):
    """Implements `SpanExporter` over another one, whose `library_logger` it silences.

    The library writes a line or two for each batch that it can't send, which is one every few
    seconds for as long as the collector is away. A batch that isn't sent is dropped.
    """

    def __init__(
        self, exporter: SpanExporter, endpoint: str, library_logger: logging.Logger
    ) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._library_logger = library_logger
        self._reason = _LastWord()
        self._num_lost = 0
        library_logger.addFilter(self._reason)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send `spans`; says in the log when that begins to fail and when it works again."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._tell_lost("the trace collector at %s answers again; %d spans were lost")
        else:
            if not self._num_lost:
                logger.warning(
                    "no traces can be sent to %s, they are dropped until it answers: %s",
                    self._endpoint,
                    self._reason.text or "no reason given",
                )
            self._num_lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        self._tell_lost("the trace collector at %s didn't come back; %d spans were lost")
        self._library_logger.removeFilter(self._reason)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _tell_lost(self, text: str) -> None:
        if self._num_lost:
            logger.warning(text, self._endpoint, self._num_lost)
        self._num_lost = 0


class _LastWord(logging.Filter):
    """Lets nothing through, and keeps the last message."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = record.getMessage()
        return False
