"""Random JSON schemas: is every answer valid, and what does obeying them cost?

    python -m loadtests.structured_output [--schemas 200] [--seed 0]

Sixteen clients ask an adapter for one answer to each schema: nesting, enums, arrays, unicode,
unions, patterns. `jsonschema` judges every answer that ended by itself (finish reason `stop`);
those cut by the token limit are counted apart, since half a document can't be valid.

Then as many answers of the same lengths, without a schema. Both take turns, some dozens of answers
each time, and the ratio of their median tokens/s is the throughput that is left. Compiling the
schemas counts as cost.

Takes about 4 minutes on 2 cores.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema

from loadtests.fixtures.adapters_factory import fill_store
from loadtests.fixtures.random_schemas import Schema, random_schema
from loadtests.harness.closed_loop import AnswerShape, chat_body
from loadtests.harness.command import MeasurementError, Report, make_server_parser, run_command
from loadtests.harness.http_client import HttpConnection, StreamRecord, read_timings
from loadtests.harness.report import format_table
from loadtests.harness.server_process import running_server

_PATH = "/v1/chat/completions"
_ROUND = 48
_QUICK_SCHEMAS = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one schema; `complaint` is empty for a valid one and for one that was cut."""

    serial: int
    finish_reason: str
    num_tokens: int
    text: str
    complaint: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of one turn, with schemas and without."""

    constrained: float
    free: float


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_server_parser(
        "structured_output", str(__doc__), quick=f"{_QUICK_SCHEMAS} schemas"
    )
    parser.add_argument("--schemas", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first schema (%(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="at once (%(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=768, help="an answer (%(default)s)")
    return parser.parse_args(argv)


def judge(serial: int, schema: Schema, record: StreamRecord) -> Answer:
    """Read a streamed answer and validate it. Raises `HttpClientError` when it broke off."""
    timings = read_timings(record)
    reason = finish_reason(record.payloads)
    complaint = complaint_about(timings.text, schema) if reason == "stop" else ""
    if reason not in ("stop", "length"):
        complaint = f"finish reason {reason!r}"
    return Answer(serial, reason, timings.num_tokens, timings.text, complaint)


def finish_reason(payloads: Iterable[bytes]) -> str:
    """The last one that a stream tells; empty when it tells none."""
    reason = ""
    for payload in payloads:
        if payload != b"[DONE]":
            for choice in json.loads(payload).get("choices") or ():
                reason = choice.get("finish_reason") or reason
    return reason


def complaint_about(text: str, schema: Schema) -> str:
    """Why a text isn't a document of that schema; empty when it is."""
    judging = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    try:
        judging.validate(json.loads(text))
    except ValueError as error:
        return f"not JSON: {error}"
    except jsonschema.ValidationError as error:
        return error.message
    return ""


class StructuredLoad:
    """Asks one server over `num_clients` connections."""

    def __init__(self, url: str, model: str, num_clients: int, max_tokens: int) -> None:
        self._url = url
        self._model = model
        self._num_clients = num_clients
        self._max_tokens = max_tokens

    async def constrained(self, schemas: Mapping[int, Schema]) -> tuple[list[Answer], float]:
        """An answer to each schema by its serial number, and the seconds that all took."""
        bodies = {serial: self._constrained_body(serial, s) for serial, s in schemas.items()}
        records, seconds = await self._ask(bodies)
        return [judge(serial, schemas[serial], records[serial]) for serial in schemas], seconds

    async def free(self, lengths: Mapping[int, int]) -> float:
        """Answers of exactly so many tokens without a schema. Returns the seconds."""
        records, seconds = await self._ask(
            {serial: self._body(serial, AnswerShape(num)) for serial, num in lengths.items()}
        )
        got = sum(read_timings(record).num_tokens for record in records.values())
        if got != sum(lengths.values()):
            raise MeasurementError(
                f"asked for {sum(lengths.values())} tokens without a schema and got {got}"
            )
        return seconds

    def _constrained_body(self, serial: int, schema: Schema) -> dict[str, Any]:
        body = self._body(serial, AnswerShape(self._max_tokens, ignore_eos=False))
        shape = {"name": f"schema-{serial}", "schema": schema, "strict": True}
        return body | {"response_format": {"type": "json_schema", "json_schema": shape}}

    def _body(self, serial: int, shape: AnswerShape) -> dict[str, Any]:
        """Drawn, not greedy: more ways through a schema are tried, repeatably."""
        return chat_body(self._model, serial, shape) | {"temperature": 0.8, "seed": serial}

    async def _ask(
        self, bodies: Mapping[int, Mapping[str, Any]]
    ) -> tuple[dict[int, StreamRecord], float]:
        waiting = iter(bodies.items())
        records: dict[int, StreamRecord] = {}

        async def client() -> None:
            connection = HttpConnection(self._url)
            try:
                for serial, body in waiting:
                    records[serial] = await connection.stream(_PATH, body)
            finally:
                connection.close()

        start = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._num_clients):
                    group.create_task(client())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return records, time.perf_counter() - start


async def take_turns(
    load: StructuredLoad, schemas: Sequence[Schema]
) -> tuple[list[Answer], list[Speed]]:
    """Every schema once, and as much without, in turns.

    Serial numbers of the two never meet, so that no prefix cache helps one of them.
    """
    answers: list[Answer] = []
    speeds: list[Speed] = []
    await load.free({-1 - index: 8 for index in range(len(schemas[:_ROUND]))})  # warms up
    for start in range(0, len(schemas), _ROUND):
        batch = dict(enumerate(schemas[start : start + _ROUND], start))
        turn, seconds = await load.constrained(batch)
        num_tokens = sum(answer.num_tokens for answer in turn)
        lengths = {len(schemas) + answer.serial: answer.num_tokens for answer in turn}
        speeds.append(Speed(num_tokens / seconds, num_tokens / await load.free(lengths)))
        answers += turn
    return answers, speeds


async def _measure(arguments: argparse.Namespace, scratch: Path) -> Report:
    num_schemas = _QUICK_SCHEMAS if arguments.quick else arguments.schemas
    schemas = [random_schema(arguments.seed + index) for index in range(num_schemas)]
    (model,) = fill_store(
        scratch / "store", scratch / "adapters", arguments.base, 1, arguments.rank
    )
    server = running_server(
        arguments.base, scratch / "store", scratch / "server.log", arguments.server_arg
    )
    async with server as url:
        load = StructuredLoad(url, model, arguments.clients, arguments.max_tokens)
        answers, speeds = await take_turns(load, schemas)
    return summarise(answers, speeds)


def summarise(answers: Sequence[Answer], speeds: Sequence[Speed]) -> Report:
    """Print counts and speeds. Raises `MeasurementError` when an answer isn't valid."""
    reasons = Counter(answer.finish_reason for answer in answers)
    wrong = [answer for answer in answers if answer.complaint]
    constrained = statistics.median(speed.constrained for speed in speeds)
    free = statistics.median(speed.free for speed in speeds)
    num_valid = reasons["stop"] - sum(answer.finish_reason == "stop" for answer in wrong)
    rows = [
        ("schemas", str(len(answers))),
        ("finished and valid", str(num_valid)),
        ("not valid", str(len(wrong))),
        ("cut by max_tokens", str(reasons["length"])),
        ("median tokens an answer", f"{statistics.median(a.num_tokens for a in answers):.0f}"),
        ("tokens/s with a schema", f"{constrained:.1f}"),
        ("tokens/s without", f"{free:.1f}"),
        ("ratio of medians", f"{constrained / free:.3f}"),
    ]
    print(format_table((f"{len(speeds)} turns each", ""), rows))
    for answer in wrong[:10]:
        print(f"schema {answer.serial}: {answer.complaint}\n  {answer.text[:300]}")
    if wrong:
        raise MeasurementError(f"{len(wrong)} of {len(answers)} answers don't obey their schema")
    return {
        "num_valid": num_valid,
        "num_cut": reasons["length"],
        "throughput_ratio": constrained / free,
        "speeds": [asdict(speed) for speed in speeds],
        "answers": [asdict(answer) for answer in answers],
    }


def measure(arguments: argparse.Namespace) -> Report:
    """Make the adapter, serve, ask, judge, print."""
    with tempfile.TemporaryDirectory(prefix="switchyard-structured-") as scratch:
        return asyncio.run(_measure(arguments, Path(scratch)))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when an answer doesn't obey its schema."""
    return run_command("structured_output", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
