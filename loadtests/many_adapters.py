"""What it costs to have many adapters registered: 8, 100 and 1000 of rank 8, chosen by Zipf(1.1).

The adapters are made on the spot, each with bytes of its own (about 5 MB: 1108 of them take 5.5 GB
below --workdir, and are deleted at the end). For every number a server is started over a store of
so many; its bank and its host cache are too small for the larger numbers, so adapters come and go.
32 clients ask for 32-token answers; the adapter of each request is drawn anew.

Takes about 6 minutes on 2 cores, 2 of them to write the adapters.
"""

import argparse
import asyncio
import dataclasses
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.store.store import AdapterStore
from loadtests.fixtures.adapter_crowd import adapter_names, publish_crowd
from loadtests.harness.closed_loop import AnswerShape, ClosedLoop
from loadtests.harness.command import (
    MeasurementError,
    Report,
    add_workdir,
    make_server_parser,
    run_command,
    whole_numbers,
)
from loadtests.harness.metrics_page import MetricsDelta, read_metrics
from loadtests.harness.report import CellResult, format_table
from loadtests.harness.server_process import running_server

TARGET_LOSS = 0.15
_LOAD_SECONDS = "switchyard_adapter_load_seconds"
_HITS = "switchyard_adapter_cache_hits_total"
_MISSES = "switchyard_adapter_cache_misses_total"
_EVICTIONS = "switchyard_adapter_cache_evictions_total"
_HEADER = (
    "registered", "asked for", "tokens/s", "of the first", "TTFT p50 ms", "p99", "gap p99 ms",
    "host hits", "loads", "load p50 ms", "p99", "evicted", "listing ms", "start s",
)  # fmt: skip


_PLAN_KEYS = (
    "base", "rank", "exponent", "clients", "tokens", "requests", "repeats", "bank_pages",
    "host_cache_gib", "server_arg",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CrowdRun:
    """One server over one store. Cache figures are of the measured requests, not the warm-up.

    Load times are read off the server's histogram, so they are as exact as its buckets; None when
    nothing was loaded.
    """

    num_registered: int
    num_asked_for: int
    cell: CellResult
    hit_rate: float
    num_loads: int
    load_p50_seconds: float | None
    load_p99_seconds: float | None
    num_evictions: int
    listing_seconds: float
    start_seconds: float


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_server_parser(
        "many_adapters", str(__doc__), quick="8 and 32 adapters, 8 clients, one round (1 minute)"
    )
    parser.add_argument(
        "--registered", type=whole_numbers, default=(8, 100, 1000), metavar="N,N...",
        help="how many adapters, one server each; the first is what others are compared with",
    )  # fmt: skip
    parser.add_argument("--rank", type=int, default=8, help="of each adapter (%(default)s)")
    parser.add_argument("--exponent", type=float, default=1.1, help="of Zipf (%(default)s)")
    parser.add_argument("--clients", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="per answer (%(default)s)")
    parser.add_argument("--requests", type=int, default=12, help="of each client (%(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="rounds over all numbers in turn (%(default)s)"
    )
    parser.add_argument(
        "--bank-pages", type=int, default=64,
        help="adapters of rank 8 that fit on the device (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--host-cache-gib", type=float, default=0.5,
        help="host memory for adapters; 0.5 holds about 109 of rank 8 (%(default)s)",
    )  # fmt: skip
    add_workdir(parser)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.registered, arguments.clients = (8, 32), 8
        arguments.requests, arguments.repeats = 4, 1
        arguments.bank_pages, arguments.host_cache_gib = 8, 0.05
    return arguments


def zipf_choices(names: Sequence[str], exponent: float, count: int, seed: int) -> list[str]:
    """`count` names at random, the k-th of them with a weight of 1 / k**exponent."""
    weights = [1.0 / place**exponent for place in range(1, len(names) + 1)]
    return random.Random(seed).choices(names, weights, k=count)


def listing_seconds(store_root: Path) -> float:
    """What a process that opens this store first takes to list every current version."""
    start = time.perf_counter()
    AdapterStore(store_root).list()
    return time.perf_counter() - start


async def measure_store(
    arguments: argparse.Namespace, num_registered: int, store_root: Path, log_file: Path, seed: int
) -> CrowdRun:
    """Start a server over this store, warm it up with requests of the same kind, measure."""
    names = adapter_names(num_registered)
    num_requests = arguments.clients * arguments.requests
    chosen = zipf_choices(names, arguments.exponent, num_requests, seed)
    warming = zipf_choices(names, arguments.exponent, 4 * arguments.clients, seed + 1)
    listing = listing_seconds(store_root)
    flags = (
        f"--adapter-bank-pages={arguments.bank_pages}",
        f"--max-lora-rank={arguments.rank}",
        f"--host-cache-gib={arguments.host_cache_gib}",
        *arguments.server_arg,
    )
    start = time.perf_counter()
    async with running_server(arguments.base, store_root, log_file, flags) as url:
        start_seconds = time.perf_counter() - start
        loop = ClosedLoop("switchyard", url, AnswerShape(arguments.tokens))
        await loop.warm_up(warming, arguments.clients)
        before = await read_metrics(url)
        cell = await loop.measure(chosen, arguments.clients, arguments.requests, num_registered)
        delta = MetricsDelta(before, await read_metrics(url))
    hits, misses = delta.total(_HITS), delta.total(_MISSES)
    return CrowdRun(
        num_registered=num_registered,
        num_asked_for=len(set(chosen)),
        cell=cell,
        hit_rate=hits / max(1.0, hits + misses),
        num_loads=int(delta.total(f"{_LOAD_SECONDS}_count")),
        load_p50_seconds=delta.histogram_percentile(_LOAD_SECONDS, 50),
        load_p99_seconds=delta.histogram_percentile(_LOAD_SECONDS, 99),
        num_evictions=int(delta.total(_EVICTIONS)),
        listing_seconds=listing,
        start_seconds=start_seconds,
    )


def relative_speeds(runs: Sequence[CrowdRun]) -> dict[int, float]:
    """Registered adapters -> median tokens/s over that of the first number measured."""
    speeds: dict[int, list[float]] = {}
    for run in runs:
        speeds.setdefault(run.num_registered, []).append(run.cell.tokens_per_second)
    first = statistics.median(speeds[runs[0].num_registered])
    return {number: statistics.median(values) / first for number, values in speeds.items()}


def check_disk(workdir: Path, num_bytes: int) -> None:
    """Raises `MeasurementError` when the adapters, and a tenth more, don't fit."""
    free = shutil.disk_usage(workdir).free
    if free < 1.1 * num_bytes:
        raise MeasurementError(
            f"the adapters take {num_bytes / 2**30:.1f} GiB and {workdir} has "
            f"{free / 2**30:.1f} GiB free: name another --workdir or fewer --registered"
        )


def measure(arguments: argparse.Namespace) -> Report:
    """Make the stores, run the servers in turns, print the table."""
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="many-adapters-", dir=arguments.workdir) as folder:
        scratch = Path(folder)
        publish_seconds = _publish(arguments, scratch)
        runs: list[CrowdRun] = []
        for repeat in range(arguments.repeats):
            for number in arguments.registered:
                store = scratch / f"store-{number}"
                work = measure_store(arguments, number, store, scratch / "server.log", 2 * repeat)
                runs.append(asyncio.run(work))
                print(f"  {number} registered: {runs[-1].cell.tokens_per_second:.1f} tokens/s",
                      flush=True)  # fmt: skip
    relative = relative_speeds(runs)
    print(f"\nrank {arguments.rank}, Zipf({arguments.exponent}), {arguments.clients} clients, "
          f"{arguments.tokens}-token answers; {arguments.bank_pages} bank pages, "
          f"{arguments.host_cache_gib} GiB host cache")  # fmt: skip
    print(format_table(_HEADER, [_row(run, runs[0]) for run in runs]))
    ratios = ", ".join(f"{number}: {share:.1%}" for number, share in relative.items())
    print(f"tokens/s relative to {runs[0].num_registered} adapters, medians: {ratios} "
          f"(target: at least {1 - TARGET_LOSS:.0%})")  # fmt: skip
    return {
        "plan": {key: value for key, value in vars(arguments).items() if key in _PLAN_KEYS},
        "publish_seconds": publish_seconds,
        "runs": [dataclasses.asdict(run) for run in runs],
        "relative": relative,
    }


def _publish(arguments: argparse.Namespace, scratch: Path) -> dict[int, float]:
    seconds: dict[int, float] = {}
    for number in arguments.registered:
        start = time.perf_counter()
        store = scratch / f"store-{number}"
        for done, size in publish_crowd(store, scratch, arguments.base, number, arguments.rank):
            if done == 1:
                check_disk(arguments.workdir, size * number)
        seconds[number] = time.perf_counter() - start
        print(f"  {number} adapters published in {seconds[number]:.0f} s", flush=True)
    return seconds


def _row(run: CrowdRun, first: CrowdRun) -> tuple[str, ...]:
    def milliseconds(seconds: float | None) -> str:
        return "-" if seconds is None else f"{seconds * 1e3:.1f}"

    return (
        str(run.num_registered),
        str(run.num_asked_for),
        f"{run.cell.tokens_per_second:.1f}",
        f"{run.cell.tokens_per_second / first.cell.tokens_per_second:.1%}",
        f"{run.cell.ttft_p50_ms:.0f}",
        f"{run.cell.ttft_p99_ms:.0f}",
        f"{run.cell.gap_p99_ms:.1f}",
        f"{run.hit_rate:.1%}",
        str(run.num_loads),
        milliseconds(run.load_p50_seconds),
        milliseconds(run.load_p99_seconds),
        str(run.num_evictions),
        milliseconds(run.listing_seconds),
        f"{run.start_seconds:.1f}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a request failed or the disk is too small."""
    return run_command("many_adapters", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
