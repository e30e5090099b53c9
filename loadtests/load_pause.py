"""What running streams feel while an adapter that isn't resident yet is loaded.

    python -m loadtests.load_pause [--loads 4] [--rank 16]

Eight streams run. Meanwhile requests come in, first for an adapter that is resident (the control:
what any new neighbour costs), then for one that has to come from disk. For each, the longest gap
between two tokens of the eight streams during that request is printed against their median gap.
"""

import asyncio
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.fixtures.adapters_factory import fill_store
from loadtests.harness.closed_loop import AnswerShape, chat_body
from loadtests.harness.command import add_base, command_parser
from loadtests.harness.http_client import (
    HttpClientError,
    HttpConnection,
    StreamTimings,
    read_timings,
)
from loadtests.harness.report import format_table, percentile
from loadtests.harness.server_process import ServerStartError, base_model_id, running_server

_NUM_STREAMS = 8
_NEWCOMER_TOKENS = 4
_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that came while the streams ran."""

    model: str
    was_resident: bool
    timings: StreamTimings


@dataclass(frozen=True, slots=True)
class Pause:
    """The streams' gaps around one arrival, in seconds."""

    model: str
    was_resident: bool
    longest_gap_seconds: float
    ttft_seconds: float


def longest_gap(streams: Sequence[StreamTimings], start: float, end: float) -> float:
    """The longest gap of any stream that overlaps `start..end`; 0.0 when there is none."""
    gaps = [0.0]
    for stream in streams:
        for before, after in itertools.pairwise(stream.text_arrivals):
            if after >= start and before <= end:
                gaps.append(after - before)
    return max(gaps)


async def measure(
    url: str,
    resident: str,
    newcomers: Sequence[str],
    *,
    num_tokens: int,
    rest_seconds: float = 1.0,
) -> tuple[list[StreamTimings], list[Arrival]]:
    """Run the streams over the base and `resident`, let the newcomers arrive, wait for the end.

    Raises `HttpClientError` when any of them fails.
    """
    base_id = await base_model_id(url)
    connections = [HttpConnection(url) for _ in range(_NUM_STREAMS + 1)]
    visitor = connections.pop()
    shape = AnswerShape(num_tokens)
    arrivals: list[Arrival] = []
    try:
        await visitor.stream(_PATH, chat_body(resident, 0, AnswerShape(_NEWCOMER_TOKENS)))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    connection.stream(
                        _PATH, chat_body((base_id, resident)[index % 2], index + 1, shape)
                    )
                )
                for index, connection in enumerate(connections)
            ]
            for serial, (name, was_resident) in enumerate(_visits(resident, newcomers), 100):
                await asyncio.sleep(rest_seconds)
                body = chat_body(name, serial, AnswerShape(_NEWCOMER_TOKENS))
                timings = read_timings(await visitor.stream(_PATH, body))
                arrivals.append(Arrival(name, was_resident, timings))
        return [read_timings(task.result()) for task in tasks], arrivals
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        for connection in (*connections, visitor):
            connection.close()


def _visits(resident: str, newcomers: Sequence[str]) -> list[tuple[str, bool]]:
    return [visit for name in newcomers for visit in ((resident, True), (name, False))]


def summarise(
    streams: Sequence[StreamTimings], arrivals: Sequence[Arrival]
) -> tuple[float, list[Pause]]:
    """The streams' median gap and the pause at each arrival that met at least one stream."""
    median = percentile([gap for stream in streams for gap in stream.gaps_seconds], 50)
    last_end = max(stream.finished for stream in streams)
    pauses = [
        Pause(
            arrival.model,
            arrival.was_resident,
            longest_gap(streams, arrival.timings.started, arrival.timings.finished),
            arrival.timings.ttft_seconds,
        )
        for arrival in arrivals
        if arrival.timings.started < last_end
    ]
    return median, pauses


def print_report(median_seconds: float, pauses: Sequence[Pause]) -> None:
    """A line per arrival, then the worst of each kind."""
    rows = [
        (
            pause.model,
            "resident" if pause.was_resident else "from disk",
            f"{pause.longest_gap_seconds * 1e3:.1f}",
            f"{pause.longest_gap_seconds / median_seconds:.1f}x",
            f"{pause.ttft_seconds * 1e3:.0f}",
        )
        for pause in pauses
    ]
    header = ("adapter", "kind", "longest gap ms", "of median", "its own TTFT ms")
    print(format_table(header, rows))
    print(f"\n{_NUM_STREAMS} streams, median gap {median_seconds * 1e3:.1f} ms; none failed")
    for was_resident, kind in ((True, "a resident adapter"), (False, "an adapter from disk")):
        worst = [p.longest_gap_seconds for p in pauses if p.was_resident is was_resident]
        if worst:
            print(f"longest gap as {kind} arrives: {max(worst) * 1e3:.1f} ms")


async def run(base: str, rank: int, num_loads: int, num_tokens: int, scratch: Path) -> None:
    """Make the adapters, start the server, measure and print."""
    folders = fill_store(scratch / "store", scratch / "adapters", base, num_loads + 1, rank)
    resident, *newcomers = folders
    async with running_server(base, scratch / "store", scratch / "server.log") as url:
        streams, arrivals = await measure(url, resident, newcomers, num_tokens=num_tokens)
    print_report(*summarise(streams, arrivals))


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run. Returns the exit status: 1 when a stream failed."""
    parser = command_parser("load_pause", __doc__ or "")
    add_base(parser)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--loads", type=int, default=4, help="adapters that arrive (%(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="per stream (%(default)s)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="switchyard-pause-") as scratch:
        work = run(arguments.base, arguments.rank, arguments.loads, arguments.tokens, Path(scratch))
        try:
            asyncio.run(work)
        except (HttpClientError, ServerStartError) as error:
            print(f"the measurement failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
