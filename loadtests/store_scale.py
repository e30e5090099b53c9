"""What a store costs by the number of its adapters: listing them, and what a server does at start.

For 10, 100 and 1000 tiny adapters: opening the store and listing it where nobody ever did, in a
new process after that, and once more in the same; a server's catalog at its start, and all of it
read; its refresh after one change; one sweep for folders that don't read, first and again. Seconds
on 2 cores; the target is 1000 listed in under 100 ms, and a start no slower than with 10.
"""

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.compatibility import ServedBase
from adapters.manifest import BaseLineage
from adapters.store import AdapterStore
from adapters.store_index import SETTLED_SECONDS
from loadtests.fixtures.tiny_adapter import write_tiny_adapter
from loadtests.harness.command import Report, make_parser, run_command, whole_numbers
from loadtests.harness.report import format_table
from server.engine.catalog import StoreCatalog

MODULES = {f"model.layers.{layer}.self_attn.q_proj": (8, 8) for layer in range(4)}
SERVED = ServedBase(BaseLineage(reference="base", digest="sha256:served"))
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
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.adapters = (10, 100)
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


def measure(arguments: argparse.Namespace) -> Report:
    """Make the stores, print the table."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="store-scale-") as folder:
        runs = []
        for number in arguments.adapters:
            scratch = Path(folder, str(number))
            scratch.mkdir()
            runs.append(measure_store(scratch / "store", scratch, number, 1.25 * SETTLED_SECONDS))
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
    return {"runs": runs}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    return run_command("store_scale", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
