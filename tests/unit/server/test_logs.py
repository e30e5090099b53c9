"""The log: ids on every line, no prompts, one object a line where it is wanted."""

import json
import logging
from collections.abc import Iterator

import httpx
import pytest

from server.api.settings import ApiSettings
from server.api.telemetry.request_ids import CURRENT_REQUEST_ID
from server.logs import JsonFormatter, RequestIdFilter, TextFormatter
from tests.fakes.api_app import FakeServing
from tests.fakes.api_engine import FakeEngine

SECRET = "a very private question"


class Lines(logging.Handler):
    """Keeps what the formatter makes of each record."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.addFilter(RequestIdFilter(CURRENT_REQUEST_ID.get))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def handler(request: pytest.FixtureRequest) -> Iterator[Lines]:
    lines = Lines(getattr(request, "param", JsonFormatter()))
    root = logging.getLogger()
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines
    root.removeHandler(lines)
    root.setLevel(level)


async def ask(serving: FakeServing, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(serving.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = {"model": "sql", "prompt": SECRET}
        return await client.post("/v1/completions", json=body, headers=headers)


async def test_a_request_is_one_object_with_its_id(handler: Lines) -> None:
    answer = await ask(FakeServing(), **{"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    entry = next(e for e in map(json.loads, handler.lines) if e["logger"] == "server.access")
    assert entry["request_id"] == "abc-1"
    assert (entry["method"], entry["route"], entry["status"]) == ("POST", "/v1/completions", 200)
    assert entry["answer_id"] == answer.json()["id"]
    assert entry["seconds"] >= 0
    assert SECRET not in "".join(handler.lines)


@pytest.mark.parametrize("bad", ["", "x" * 200, "a b", 'a"b', "a\tb", "{}"])
async def test_an_id_that_is_none_is_replaced(handler: Lines, bad: str) -> None:
    answer = await ask(FakeServing(), **{"x-request-id": bad})
    assert answer.headers["x-request-id"] == answer.json()["id"]


async def test_a_failure_has_its_exception_and_still_no_prompt(handler: Lines) -> None:
    await ask(FakeServing(FakeEngine(error=RuntimeError("a bug"))), **{"x-request-id": "abc-2"})
    entries = [json.loads(line) for line in handler.lines]
    failed = next(e for e in entries if "exception" in e)
    assert "RuntimeError: a bug" in failed["exception"]
    assert failed["request_id"] == "abc-2"
    assert SECRET not in "".join(handler.lines)


@pytest.mark.parametrize("handler", [JsonFormatter(), TextFormatter()], indirect=True)
async def test_prompts_are_logged_only_when_asked(handler: Lines) -> None:
    await ask(FakeServing(settings=ApiSettings(log_prompts=True)))
    assert SECRET in "".join(handler.lines)


def test_a_text_line_has_the_id_at_its_end() -> None:
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "request_id": "r1"})
    assert TextFormatter().format(record).endswith("hello [r1]")
