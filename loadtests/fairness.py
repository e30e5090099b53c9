"""Does one adapter's crowd of requests make nine others wait?

Nine quiet adapters have one client each, which asks, reads its short answer, rests, asks again.
They are measured alone, then beside one noisy adapter with fifty clients that never rest, in turns.
Printed: each side's time to first token, what part of the speed they had alone the nine keep, how
evenly the nine are served (Jain's index), and what the noisy one gets.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.store.store import AdapterStore
from loadtests.fixtures.adapters_factory import base_module_shapes, write_random_adapter
from loadtests.harness.closed_loop import AnswerShape, chat_body
from loadtests.harness.command import Report, make_server_parser, run_command
from loadtests.harness.http_client import HttpConnection, StreamTimings, read_timings
from loadtests.harness.report import format_table, percentile
from loadtests.harness.server_process import running_server
from loadtests.scenarios.records import jain_index

CHAT = "/v1/chat/completions"
NOISY = "noisy"
TARGET_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Round:
    """Answers of one round: quiet adapter -> its streams, and all of the noisy one's."""

    quiet: dict[str, list[StreamTimings]]
    noisy: list[StreamTimings]
    seconds: float

    @property
    def quiet_ttfts(self) -> list[float]:
        return [t.ttft_seconds for streams in self.quiet.values() for t in streams]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_server_parser("fairness", str(__doc__), quick="three quiet ones, one short round")
    parser.add_argument("--quiet", type=int, default=9, help="quiet adapters (%(default)s)")
    parser.add_argument("--noisy-clients", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind (%(default)s)")
    parser.add_argument(
        "--rest", type=float, default=1.0, help="of a quiet client, s (%(default)s)"
    )
    parser.add_argument("--tokens", type=int, default=16, help="a quiet answer (%(default)s)")
    parser.add_argument("--noisy-tokens", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.quiet, arguments.noisy_clients = 3, 12
        arguments.seconds, arguments.rounds = 4.0, 1
    return arguments


class Clients:
    """Closed-loop clients of one server; serial numbers keep every prompt new."""

    def __init__(self, url: str, arguments: argparse.Namespace) -> None:
        self._url = url
        self._arguments = arguments
        self._serial = 0

    async def round(self, names: Sequence[str], *, with_noise: bool) -> Round:
        """All quiet clients for so many seconds, with or without the crowd."""
        arguments = self._arguments
        loop = asyncio.get_running_loop()
        noise: list[asyncio.Task[list[StreamTimings]]] = []
        end = loop.time() + arguments.seconds
        if with_noise:
            shape = AnswerShape(arguments.noisy_tokens)
            noise = [
                asyncio.create_task(self._client(NOISY, shape, 0.0, end + 1.0))
                for _ in range(arguments.noisy_clients)
            ]
            await asyncio.sleep(1.0)  # until the crowd is there
            end += 1.0
        quiet_shape = AnswerShape(arguments.tokens)
        answers = await asyncio.gather(
            *(self._client(name, quiet_shape, arguments.rest, end) for name in names)
        )
        noisy = [t for streams in await asyncio.gather(*noise) for t in streams]
        return Round(dict(zip(names, answers, strict=True)), noisy, arguments.seconds)

    async def _client(
        self, model: str, shape: AnswerShape, rest_seconds: float, end: float
    ) -> list[StreamTimings]:
        connection = HttpConnection(self._url)
        timings: list[StreamTimings] = []
        loop = asyncio.get_running_loop()
        try:
            while loop.time() < end:
                self._serial += 1
                record = await connection.stream(CHAT, chat_body(model, self._serial, shape))
                timings.append(read_timings(record))
                await asyncio.sleep(rest_seconds)
        finally:
            connection.close()
        return timings


async def measure_rounds(
    arguments: argparse.Namespace, folder: Path, names: Sequence[str]
) -> tuple[list[Round], list[Round]]:
    """Rounds alone and rounds beside the crowd, in turns, on one server."""
    alone: list[Round] = []
    beside: list[Round] = []
    store, log = folder / "store", folder / "server.log"
    async with running_server(arguments.base, store, log, arguments.server_arg) as url:
        clients = Clients(url, arguments)
        await clients.round(names, with_noise=False)  # warm-up
        for _ in range(arguments.rounds):
            alone.append(await clients.round(names, with_noise=False))
            beside.append(await clients.round(names, with_noise=True))
    return alone, beside


def publish(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """The noisy adapter and the quiet ones; returns the quiet names."""
    shapes = base_module_shapes(arguments.base)
    store = AdapterStore(folder / "store")
    names = [f"quiet-{index}" for index in range(arguments.quiet)]
    for seed, name in enumerate((NOISY, *names)):
        made = write_random_adapter(
            folder / name, shapes, rank=arguments.rank, seed=seed, base_reference=arguments.base
        )
        store.import_folder(name, made, source="loadtests")
    return names


def measure(arguments: argparse.Namespace) -> Report:
    """Run the rounds and print them."""
    with tempfile.TemporaryDirectory(prefix="switchyard-fairness-") as scratch:
        names = publish(Path(scratch), arguments)
        alone, beside = asyncio.run(measure_rounds(arguments, Path(scratch), names))
    rows = [_row("alone", alone), _row(f"beside {arguments.noisy_clients} noisy clients", beside)]
    header = ("the quiet ones", "answers", "TTFT p50 ms", "p99", "Jain", "noisy tokens/s")
    print(format_table(header, rows))
    medians = [
        statistics.median([ttft for r in rounds for ttft in r.quiet_ttfts])
        for rounds in (alone, beside)
    ]
    share = medians[0] / medians[1]
    print(f"TTFT alone / beside the crowd: {share:.2f} (aim: at least {TARGET_SHARE})")
    return {"ttft_p50_seconds": medians, "share_kept": share, "rows": rows}


def _row(label: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    ttfts = [1e3 * ttft for r in rounds for ttft in r.quiet_ttfts]
    served: dict[str, int] = {}
    for one in rounds:
        for name, streams in one.quiet.items():
            served[name] = served.get(name, 0) + sum(t.num_tokens for t in streams)
    noisy = sum(t.num_tokens for r in rounds for t in r.noisy)
    return (
        label,
        str(len(ttfts)),
        f"{percentile(ttfts, 50):.0f}",
        f"{percentile(ttfts, 99):.0f}",
        f"{jain_index(list(served.values())):.3f}",
        f"{noisy / sum(r.seconds for r in rounds):.0f}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    return run_command("fairness", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
