"""Which answers count as finished, and what is said about a wrong one."""

import json
from typing import Any

import pytest

from loadtests.harness.command import MeasurementError
from loadtests.harness.http_client import StreamRecord
from loadtests.structured_output import (
    Answer,
    Speed,
    StructuredLoad,
    judge,
    summarise,
    take_turns,
)
from tests.unit.loadtests.fake_server import FakeServer

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"day": {"type": "string", "format": "date"}},
    "required": ["day"],
}


def record(text: str, reason: str) -> StreamRecord:
    events: list[dict[str, Any]] = [
        {"choices": [{"delta": {"content": text}, "finish_reason": None}]},
        {"choices": [{"delta": {}, "finish_reason": reason}]},
        {"choices": [], "usage": {"completion_tokens": 5}},
    ]
    payloads = [json.dumps(event).encode() for event in events]
    return StreamRecord(0.0, 1.0, [0.1, 0.2, 0.3, 0.4], [*payloads, b"[DONE]"])


@pytest.mark.parametrize(
    ("text", "reason", "complaint"),
    [
        ('{"day": "2026-01-31"}', "stop", ""),
        ('{"day": "2026-02-31"}', "stop", "is not a 'date'"),
        ("{}", "stop", "'day' is a required property"),
        ('{"day": ', "stop", "not JSON"),
        ('{"day": ', "length", ""),
        ('{"day": ', "abort", "finish reason 'abort'"),
    ],
)
def test_only_finished_answers_are_validated(text: str, reason: str, complaint: str) -> None:
    answer = judge(3, SCHEMA, record(text, reason))
    assert (answer.serial, answer.num_tokens, answer.finish_reason) == (3, 5, reason)
    assert complaint in answer.complaint
    assert bool(answer.complaint) == bool(complaint)


def test_the_report_counts_the_cut_apart(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [Answer(0, "stop", 10, "{}", ""), Answer(1, "length", 20, "{", "")]
    report = summarise(answers, [Speed(90.0, 100.0), Speed(80.0, 100.0), Speed(95.0, 100.0)])
    assert (report["num_valid"], report["num_cut"]) == (1, 1)
    assert report["throughput_ratio"] == pytest.approx(0.9)
    assert "0.900" in capsys.readouterr().out


def test_one_wrong_answer_fails_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [Answer(0, "stop", 10, "{}", ""), Answer(1, "stop", 9, "[]", "no object")]
    with pytest.raises(MeasurementError, match="1 of 2"):
        summarise(answers, [Speed(1.0, 1.0)])
    assert "schema 1: no object\n  []" in capsys.readouterr().out


async def test_each_schema_is_asked_once_and_its_length_once_more() -> None:
    fake = FakeServer()
    schemas: list[dict[str, Any]] = [{"const": index} for index in range(5)]
    async with fake.listening() as url:
        answers, speeds = await take_turns(StructuredLoad(url, "sql", 2, 7), schemas)
    constrained = [body for body in fake.bodies if "response_format" in body]
    free = [body for body in fake.bodies if "response_format" not in body][len(schemas) :]
    asked = [body["response_format"]["json_schema"]["schema"]["const"] for body in constrained]
    assert sorted(asked) == list(range(5))
    assert not any(body.get("ignore_eos") for body in constrained)
    assert [answer.num_tokens for answer in answers] == [body["max_tokens"] for body in free]
    prompts = [body["messages"][0]["content"] for body in fake.bodies]
    assert len(set(prompts)) == len(prompts)
    assert len(speeds) == 1
    assert fake.max_running == 2
