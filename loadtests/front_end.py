"""What HTTP and server-sent events cost: tokens/s of the server without a model.

    python -m loadtests.front_end [--streams 64] [--tokens 1500]

Each rung of a ladder is a server process of its own on one core; the client has another core. From
rung to rung one thing is added:

    socket         an ASGI application on our uvicorn settings that writes ready-made events
    sse-starlette  a bare route that sends them through that library: the yardstick
    front-end      our whole HTTP side over an engine whose texts are ready
    detokenising   the same, its texts made from tokens as in the real engine
    whole          the real engine, scheduler and step thread over a runner without a model

Every stream gets one token a step, like a batch, so that none is ever sent with the next one. What
a rung costs more than the one before is what it added. The last one's steps take 10 ms in which
nothing is computed, so only what its process used is told.

Takes about a minute and a half on 2 cores, with --quick half a minute.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from adapters.base.reference import DEFAULT_BASE, resolve_base
from loadtests.fixtures.modelless_server import RUNGS
from loadtests.harness.command import MeasurementError, Report, make_parser, run_command
from loadtests.harness.event_counter import count_events
from loadtests.harness.report import format_table
from loadtests.harness.server_process import free_port, running_process

TARGET = 40_000
_PATH = "/v1/chat/completions"
_ADDED = {
    "socket": "uvloop, uvicorn, the kernel's sockets",
    "sse-starlette": "sse-starlette and Starlette's route",
    "front-end": "middleware, chunks as JSON, our stream",
    "detokenising": "tokens to text, stop strings",
    "whole": "engine, scheduler, step thread, metrics",
}


@dataclass(frozen=True, slots=True)
class Rung:
    """Medians over rounds. `cpu_us` is what the process used for a token, all threads together.

    `per_second` is None where steps set the pace.
    """

    name: str
    per_second: float | None
    cpu_us: float


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("front_end", str(__doc__), quick="one round of short answers")
    parser.add_argument("--streams", type=int, default=64, help="connections (%(default)s)")
    parser.add_argument("--tokens", type=int, default=1500, help="an answer (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="for each rung (%(default)s)")
    parser.add_argument(
        "--rung", action="append", choices=RUNGS, help="only this one; may be repeated"
    )
    return parser.parse_args(argv)


def chat_body(num_tokens: int) -> dict[str, object]:
    """What every stream asks for."""
    return {
        "model": resolve_base(DEFAULT_BASE).model_id,
        "messages": [{"role": "user", "content": "Tell me about the river."}],
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


async def measure_rung(
    name: str, cores: Sequence[int], num_streams: int, num_tokens: int, num_rounds: int
) -> Rung:
    """Start the rung's server on the first core and read its streams on the second."""
    if name == "whole":
        num_tokens = max(200, num_tokens // 4)
    body, rates, costs = chat_body(num_tokens), [], []
    async with _server(name, cores[0], num_streams, num_tokens) as (url, process):
        await count_events(url, _PATH, body, num_streams)
        for _ in range(num_rounds):
            before = cpu_seconds(process.pid)
            rate = await count_events(url, _PATH, body, num_streams)
            used = cpu_seconds(process.pid) - before
            check_whole(name, rate.num_events_each, num_tokens)
            rates.append(rate.per_second)
            costs.append(used / sum(rate.num_events_each) * 1e6)
    rate_or_none = None if name == "whole" else statistics.median(rates)
    return Rung(name, rate_or_none, statistics.median(costs))


def check_whole(name: str, num_events_each: Sequence[int], num_tokens: int) -> None:
    """Raises `MeasurementError` unless each stream had an event for every token, and no few more.

    A token that ends in the middle of a character has no text of its own, so a text's last event
    may stand for it: the fixed text has no such token.
    """
    for num_events in num_events_each:
        if not num_tokens < num_events <= num_tokens + 4:
            raise MeasurementError(f"{name}: {num_events} events for {num_tokens} tokens")


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, in user and system mode (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def _server(
    name: str, core: int, num_streams: int, num_tokens: int
) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "loadtests.fixtures.modelless_server", name),
        *("--port", str(port), "--core", str(core)),
        *("--streams", str(num_streams), "--events", str(num_tokens)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        log_file = Path(folder) / "server.log"
        async with running_process(command, f"http://127.0.0.1:{port}", log_file) as process:
            yield f"http://127.0.0.1:{port}", process


def rows(rungs: Sequence[Rung]) -> list[tuple[str, ...]]:
    """The table's lines: each rung beside what it adds to the one before."""
    lines: list[tuple[str, ...]] = []
    before = 0.0
    for rung in rungs:
        rate = "-" if rung.per_second is None else f"{rung.per_second:,.0f}"
        added = f"{rung.cpu_us - before:+.1f}"
        lines.append((rung.name, rate, f"{rung.cpu_us:.1f}", added, _ADDED[rung.name]))
        before = rung.cpu_us
    return lines


def measure(arguments: argparse.Namespace) -> Report:
    """Climb the ladder. Raises `MeasurementError` on a machine with one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise MeasurementError("server and client need a core each; this process may use one")
    os.sched_setaffinity(0, {cores[1]})
    num_rounds, num_tokens = arguments.rounds, arguments.tokens
    if arguments.quick:
        num_rounds, num_tokens = 1, 500
    rungs = []
    for name in arguments.rung or RUNGS:
        rungs.append(
            uvloop.run(measure_rung(name, cores, arguments.streams, num_tokens, num_rounds))
        )
        print(f"  {name}: {rungs[-1].cpu_us:.1f} us a token", flush=True)
    header = ("rung", "tokens/s", "CPU us a token", "added", "what it adds")
    print(f"\n{format_table(header, rows(rungs))}\n")
    for rung in rungs:
        if rung.name == "front-end" and rung.per_second is not None:
            verdict = "reached" if rung.per_second >= TARGET else "missed"
            print(f"the front end alone: {rung.per_second:,.0f} tokens/s; {TARGET:,} {verdict}")
    return {"rungs": [asdict(rung) for rung in rungs], "target": TARGET}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return run_command("front_end", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    sys.exit(main())
