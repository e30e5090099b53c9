"""What a store costs by the number of its adapters: listing them, and a server's start over it.

For 10, 100 and 1000 tiny adapters: opening the store and listing it where nobody ever did, in a
new process after that, and once more in the same; a server's catalog at its start, and all of it
read; its refresh after one change; one sweep for folders that don't read, first and again. Then a
real server over each store and a tiny random base: from its start until it is ready, in turns, and
its two listings over HTTP. Two minutes on 2 cores; the target is 1000 listed in under 100 ms, and a
start no slower than with 10.
"""

import argparse
import asyncio
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage
from adapters.store.index import SETTLED_SECONDS
from adapters.store.store import AdapterStore
from loadtests.fixtures.random_llama import TINY, build_random_llama
from loadtests.fixtures.tiny_adapter import write_tiny_adapter
from loadtests.harness.command import (
    MeasurementError,
    Report,
    make_parser,
    run_command,
    whole_numbers,
)
from loadtests.harness.report import format_table
from loadtests.harness.server_process import get, running_server
from server.engine.hosting.catalog import StoreCatalog

MODULES = {f"model.layers.{layer}.self_attn.q_proj": (8, 8) for layer in range(4)}
SERVED = ServedBase(BaseLineage(reference="base", digest="sha256:served"))
LISTINGS = ("/v1/adapters", "/v1/models")
_LISTINGS_EACH = 20
_HEADER = (
    "adapters", "first listing ever ms", "in a new process ms", "again ms", "catalog at start ms",
    "all of it ms", "refresh of one ms", "sweep ms", "again ms", "files read ever",
    "in a new process", "by the refresh",
)  # fmt: skip


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("store_scale", str(__doc__), quick="10 and 100 adapters")
    parser.add_argument(
        "--adapters", type=whole_numbers, default=(10, 100, 1000), metavar="N,N...",
        help="(%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--starts", type=int, default=5, help="of a server over each store (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.adapters, arguments.starts = (10, 100), 1
    return arguments


def milliseconds(work: Callable[[], object]) -> float:
    """What one call takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def fill_store(root: Path, scratch: Path, number: int) -> None:
    """So many names with one version each. One is imported; the others are copies of its folder."""
    folder = write_tiny_adapter(scratch / "adapter", MODULES, fill=1)
    AdapterStore(root).import_folder("a-0000", folder)
    for index in range(1, number):
        shutil.copytree(root / "a-0000", root / f"a-{index:04d}")


def measure_store(
    root: Path, scratch: Path, number: int, settle_seconds: float
) -> dict[str, float]:
    """All figures of one number of adapters; the index takes what rested for `settle_seconds`."""
    fill_store(root, scratch, number)
    time.sleep(settle_seconds)
    figures = {"adapters": float(number)}
    for column in ("first", "new_process"):
        start = time.perf_counter()
        store = AdapterStore(root)
        found = store.list()
        figures[column] = (time.perf_counter() - start) * 1e3
        figures[f"files_{column}"] = float(store.num_files_parsed)
        assert len(found) == number
    figures["again"] = milliseconds(store.list)
    store = AdapterStore(root)
    start = time.perf_counter()
    catalog = StoreCatalog(store, served=SERVED, base_modules=MODULES, allowed_roots=[])
    figures["catalog"] = (time.perf_counter() - start) * 1e3
    figures["whole_catalog"] = milliseconds(catalog.list)
    files_at_start = store.num_files_parsed
    AdapterStore(root).import_folder("a-0003", scratch / "adapter")
    figures["refresh"] = milliseconds(lambda: catalog.refresh(["a-0003"]))
    figures["files_by_refresh"] = float(store.num_files_parsed - files_at_start)
    figures["sweep"] = milliseconds(lambda: store.sweep(0.0))
    figures["sweep_again"] = milliseconds(lambda: store.sweep(0.0))
    return figures


async def measure_start(base: str, store: Path, log_file: Path, number: int) -> dict[str, float]:
    """One start of a server, in seconds until it is ready, and its listings, in milliseconds.

    Raises `MeasurementError` for a listing without all the adapters.
    """
    began = time.perf_counter()
    async with running_server(base, store, log_file) as url:
        figures = {"start": time.perf_counter() - began}
        for path in LISTINGS:
            times = []
            for _ in range(_LISTINGS_EACH):
                start = time.perf_counter()
                status, text = await get(url, path)
                times.append((time.perf_counter() - start) * 1e3)
                if status != 200 or len(json.loads(text)["data"]) < number:
                    raise MeasurementError(f"{path} doesn't list {number} adapters: {text[:200]}")
            figures[path] = statistics.median(times)
            figures[f"{path} first"] = times[0]
        return figures


def measure_servers(
    folder: Path, numbers: Sequence[int], num_starts: int
) -> dict[int, dict[str, float]]:
    """Medians over so many starts over each of the stores, in turns."""
    build_random_llama(folder / "base", TINY)
    found: dict[int, list[dict[str, float]]] = {number: [] for number in numbers}
    for _ in range(num_starts):
        for number in numbers:
            store, log_file = folder / str(number) / "store", folder / "server.log"
            starting = measure_start(str(folder / "base"), store, log_file, number)
            found[number].append(asyncio.run(starting))
    return {
        number: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        | {"fastest start": min(run["start"] for run in runs)}
        for number, runs in found.items()
    }


def measure(arguments: argparse.Namespace) -> Report:
    """Make the stores, print the tables."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="store-scale-") as folder:
        runs = []
        for number in arguments.adapters:
            scratch = Path(folder, str(number))
            scratch.mkdir()
            runs.append(measure_store(scratch / "store", scratch, number, 1.25 * SETTLED_SECONDS))
        servers = measure_servers(Path(folder), arguments.adapters, arguments.starts)
    columns = (
        "first", "new_process", "again", "catalog", "whole_catalog", "refresh", "sweep",
        "sweep_again",
    )  # fmt: skip
    counts = ("files_first", "files_new_process", "files_by_refresh")
    rows = [
        (
            f"{run['adapters']:.0f}",
            *(f"{run[column]:.1f}" for column in columns),
            *(f"{run[column]:.0f}" for column in counts),
        )
        for run in runs
    ]
    print(format_table(_HEADER, rows))
    listings = tuple(f"{path}{which}" for path in LISTINGS for which in (" first", ""))
    rows = [
        (
            str(number),
            *(f"{run[column]:.2f}" for column in ("start", "fastest start")),
            *(f"{run[column]:.1f}" for column in listings),
        )
        for number, run in servers.items()
    ]
    header = ("adapters", "start s", "fastest s", *(f"GET {column} ms" for column in listings))
    print(f"\na server over each, medians of {arguments.starts} starts")
    print(format_table(header, rows))
    return {"runs": runs, "servers": servers}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    return run_command("store_scale", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
