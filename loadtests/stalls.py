"""What the largest legal request of each endpoint costs everybody else.

One quiet stream decodes and `/health/live` is asked every 10 ms. Beside them goes one request after
the other, each at its endpoint's limit or just beyond it, as this code has the limits. A cell holds
the worst gap of the stream and the worst answer of `/health/live`. A cell over its bound is tried
again; the best of its tries counts, since a real stall comes every time.

Exits with 2 when a cell stays over its bound, and when a route of the server has no cell.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtests.harness.command import MeasurementError, Report, make_server_parser, run_command
from loadtests.harness.report import format_table, percentile
from loadtests.harness.server_process import running_server
from server.api.access.rights import RIGHTS
from server.api.requests.generation import MAX_BAD_WORDS, MAX_LOGPROBS, MAX_STOP_CHARS
from server.api.requests.messages import MAX_MESSAGES
from server.api.settings import ApiSettings

MAX_HEALTH_MS = 100.0
MAX_GAP_MS = 250.0
MAX_GAP_RATIO = 10.0
LEAST_IDLE_MS = 17.0
"""Where a stream's own gap is shorter, the ratio is to this: ten times the 3 ms of a fast machine
are less than one step with a chunk of a long prompt takes."""

MAX_LATE_SECONDS = 1.0
_TRIES = 3
_DEADLINE_SECONDS = 0.5
_CELL_SECONDS = 8.0
_WARM_UP_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says of its model; `window` and `vocabulary` in tokens."""

    model: str
    window: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One request; `is_legal` says whether the server is to honour it."""

    name: str
    path: str
    body: Mapping[str, Any]
    is_legal: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """Milliseconds; `status` is the big request's own, 0 for one that was still running."""

    cell: Cell
    status: int
    idle_gap_ms: float
    worst_gap_ms: float
    worst_health_ms: float

    @property
    def is_within(self) -> bool:
        """Whether nobody was stalled, and a legal request wasn't refused."""
        if self.cell.is_legal and self.status >= 400:
            return False
        bound = min(MAX_GAP_MS, MAX_GAP_RATIO * max(LEAST_IDLE_MS, self.idle_gap_ms))
        return self.worst_gap_ms < bound and self.worst_health_ms < MAX_HEALTH_MS


def cells(facts: Facts) -> list[Cell]:
    """Each endpoint that takes a body of size, at its limits."""
    chat, complete = "/v1/chat/completions", "/v1/completions"
    ids = [i % 1000 + 100 for i in range(facts.window - 64)]
    turn = [{"role": "user", "content": "Count to a thousand."}]
    base = {"model": facts.model, "max_tokens": 16, "ignore_eos": True}
    bias = {str(i): 0.5 for i in range(facts.vocabulary)}
    words = [f"{i:03d}" + "word " * (MAX_STOP_CHARS // 5 - 1) for i in range(MAX_BAD_WORDS)]
    num_choices = ApiSettings().max_choices
    most = min(MAX_MESSAGES, facts.window // 8)  # a turn takes some 6 tokens of the window
    many = [{"role": "user", "content": ""}, *[{"role": "assistant", "content": "a"}]]
    return [
        Cell("/tokenize at the window", "/tokenize", {"prompt": "word " * facts.window}),
        Cell("/tokenize 3 MB", "/tokenize", {"prompt": "word " * 600_000}, is_legal=False),
        Cell("/tokenize 7 MB", "/tokenize", {"prompt": "word " * 1_400_000}, is_legal=False),
        Cell("/detokenize at the window", "/detokenize", {"tokens": ids}),
        Cell("/detokenize 1.5 M ids", "/detokenize", {"tokens": [7] * 1_500_000}, is_legal=False),
        Cell("most messages", chat, {**base, "messages": turn + many * (most // 2 - 1)}),
        Cell("30,000 messages", chat, {**base, "messages": many * 15_000}, is_legal=False),
        Cell("most items", "/v1/responses", {
            "model": facts.model, "max_output_tokens": 16,
            "input": [{"type": "message", **message} for message in many * (most // 2)],
        }),
        Cell("longest chat", chat, {
            **base, "messages": [{"role": "user", "content": "word " * (facts.window - 100)}],
        }),
        Cell("longest prompt of ids", complete, {**base, "prompt": ids}),
        Cell("most prompts of ids", complete, {
            **base, "max_tokens": 1, "prompt": [ids[: facts.window // 2]] * num_choices,
        }),
        Cell("allowed_token_ids, all", chat, {
            **base, "messages": turn, "allowed_token_ids": list(range(facts.vocabulary)),
        }),
        Cell("a million allowed_token_ids", chat, {
            **base, "messages": turn, "allowed_token_ids": [5] * 1_000_000,
        }, is_legal=False),
        Cell("most bad_words", chat, {**base, "messages": turn, "bad_words": words}),
        Cell("logit_bias, all, n=32", chat, {
            **base, "messages": turn, "logit_bias": bias, "n": 32,
        }),
        Cell("prompt_logprobs of 4,000", complete, {
            **base, "prompt": ids[:4000], "prompt_logprobs": MAX_LOGPROBS,
        }),
    ]  # fmt: skip


def routes_without_cell(facts: Facts) -> list[str]:
    """Routes that generate or tokenise and that no cell asks."""
    asked = {cell.path for cell in cells(facts)}
    return sorted(
        path
        for (method, path), right in RIGHTS.items()
        if method == "POST" and right is not None and right.value == "infer" and path not in asked
    )


class Stream:
    """One quiet stream that goes on until it is closed, and the times of its tokens."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._body = {
            "model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True,
            "ignore_eos": True, "max_tokens": 3000,
        }  # fmt: skip
        self.arrivals: list[float] = []
        self.begun = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled, one answer after the other."""
        async with httpx.AsyncClient(timeout=None) as client:
            while True:
                path = f"{self._url}/v1/chat/completions"
                async with client.stream("POST", path, json=self._body) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            self.arrivals.append(time.perf_counter())
                            if len(self.arrivals) >= _WARM_UP_TOKENS:
                                self.begun.set()

    def gaps_ms(self, begin: float, end: float) -> list[float]:
        """Of the tokens that came between, and of the one that was awaited at the end."""
        times = [t for t in self.arrivals if begin <= t <= end]
        return [(b - a) * 1e3 for a, b in itertools.pairwise([begin, *times, end])]


async def _watch_health(url: str, worst: list[float]) -> None:
    async with httpx.AsyncClient(timeout=None) as client:
        while True:
            started = time.perf_counter()
            await client.get(f"{url}/health/live")
            worst.append((time.perf_counter() - started) * 1e3)
            await asyncio.sleep(0.01)


async def _post(url: str, cell: Cell, content: bytes) -> int:
    """The request from a process of its own: writing it would stop this one's clock."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        command = (
            "import sys,httpx;r=httpx.post(sys.argv[1],content=open(sys.argv[2],'rb').read(),"
            "headers={'content-type':'application/json'},timeout=600);print(r.status_code)"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", command, url + cell.path, file.name,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_CELL_SECONDS):
                output, _ = await process.communicate()
            return int(output or 0)
        except TimeoutError:
            return 0
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _try(url: str, facts: Facts, cell: Cell) -> Outcome:
    stream, health = Stream(url, facts.model), list[float]()
    content = json.dumps(cell.body).encode()
    tasks = [asyncio.create_task(stream.run()), asyncio.create_task(_watch_health(url, health))]
    try:
        await stream.begun.wait()
        begin = time.perf_counter()
        await asyncio.sleep(0.5)
        idle = percentile(stream.gaps_ms(begin, time.perf_counter()), 50)
        health.clear()
        begin = time.perf_counter()
        status = await _post(url, cell, content)
        await asyncio.sleep(0.2)
        gaps = stream.gaps_ms(begin, time.perf_counter())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Outcome(cell, status, idle, max(gaps), max(health))


async def measure_cell(url: str, facts: Facts, cell: Cell, tries: int = _TRIES) -> Outcome:
    """The best of up to `tries`."""
    best: Outcome | None = None
    for _ in range(tries):
        outcome = await _try(url, facts, cell)
        key: Callable[[Outcome], float] = lambda o: max(o.worst_gap_ms, o.worst_health_ms)  # noqa: E731
        best = outcome if best is None else min(best, outcome, key=key)
        if outcome.is_within:
            return outcome
    assert best is not None
    return best


async def lateness_seconds(url: str, cell: Cell) -> float:
    """How long after its `x-request-timeout` a request was still unanswered; at least 0."""
    headers = {"content-type": "application/json", "x-request-timeout": str(_DEADLINE_SECONDS)}
    content = json.dumps(cell.body).encode()
    async with httpx.AsyncClient(timeout=None) as client:
        started = time.perf_counter()
        await client.post(url + cell.path, content=content, headers=headers)
        return max(0.0, time.perf_counter() - started - _DEADLINE_SECONDS)


async def facts_of(url: str) -> Facts:
    """What the server says of its model."""
    async with httpx.AsyncClient(timeout=60) as client:
        model = (await client.get(f"{url}/v1/models")).json()["data"][0]["id"]
        counted = (await client.post(f"{url}/tokenize", json={"prompt": "a"})).json()
        refused = await client.post(f"{url}/detokenize", json={"tokens": [2**31]})
        size = int(refused.json()["error"]["message"].rsplit(" ", 1)[1]) + 1
    return Facts(model, int(counted["max_model_len"]), size)


async def _measure_url(url: str, tries: int) -> Report:
    facts = await facts_of(url)
    missing = routes_without_cell(facts)
    outcomes, late = [], []
    for cell in cells(facts):
        outcomes.append(await measure_cell(url, facts, cell, tries))
        late.append(await lateness_seconds(url, cell))
        print(".", end="", flush=True)
    print()
    rows = [
        (o.cell.name, str(o.status), f"{o.idle_gap_ms:.0f}", f"{o.worst_gap_ms:.0f}",
         f"{o.worst_health_ms:.0f}", f"{s:.2f}",
         "yes" if o.is_within and s < MAX_LATE_SECONDS else "NO")
        for o, s in zip(outcomes, late, strict=True)
    ]  # fmt: skip
    header = ("request", "status", "idle p50 ms", "worst gap ms", "health ms", "late s", "within")
    print(format_table(header, rows))
    if missing:
        print(f"routes without a cell: {', '.join(missing)}")
    breaches = [row[0] for row in rows if row[-1] == "NO"]
    return {"rows": rows, "breaches": breaches, "missing": missing}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_server_parser("stalls", str(__doc__), quick="each cell once")
    parser.add_argument("--url", help="a server that runs, instead of one of our own")
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace) -> Report:
    """Start a server, unless one is given, and go through the cells."""

    async def run() -> Report:
        tries = 1 if arguments.quick else _TRIES
        if arguments.url:
            return await _measure_url(arguments.url, tries)
        with tempfile.TemporaryDirectory() as folder:
            store, log = Path(folder) / "store", Path(folder) / "log"
            async with running_server(arguments.base, store, log, arguments.server_arg) as url:
                return await _measure_url(url, tries)

    try:
        return asyncio.run(run())
    except httpx.HTTPError as error:
        raise MeasurementError(f"the server doesn't answer: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 2 for a breach."""
    reports: list[Report] = []

    def measured(arguments: argparse.Namespace) -> Report:
        reports.append(measure(arguments))
        return reports[0]

    status = run_command("stalls", argv, parse_arguments(argv), measured)
    return status or (2 if reports[0]["breaches"] or reports[0]["missing"] else 0)


if __name__ == "__main__":
    sys.exit(main())
