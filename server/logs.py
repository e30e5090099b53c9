"""How the server's log looks: one line of text or one JSON object a record, with request ids."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

# What every record has; anything else came in through `extra` and belongs in the object.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message", "asctime", "request_id", "taskName", "color_message",
}  # fmt: skip


class RequestIdFilter(logging.Filter):
    """Gives each record the id of the request on whose behalf it is written, if there is one."""

    def __init__(self, current: Callable[[], str | None]) -> None:
        super().__init__()
        self._current = current

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true: nothing is left out."""
        if not hasattr(record, "request_id"):
            record.request_id = self._current()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and the record's extras."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            entry["request_id"] = request_id
        entry |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)

    def formatTime(  # noqa: N802 - the library's name
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """One line for people; the request's id in brackets where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        request_id = getattr(record, "request_id", None)
        prompt = getattr(record, "prompt", None)
        if prompt is not None:
            text += f": {prompt!r}"
        return f"{text} [{request_id}]" if request_id else text


def set_up_logs(level: str, log_format: str, current_request_id: Callable[[], str | None]) -> None:
    """Send all records of `level` and above to standard error. `log_format` is text or json."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(RequestIdFilter(current_request_id))
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # It tells each file that it sees.
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
