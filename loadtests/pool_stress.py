"""The kernels' thread pool under forced yields on a busy machine; with `--against`, its speed too.

Every atomic step of the pool may lose its core, phases have 0 to threads + 1 items, 2 to 8 threads
run plain and under ThreadSanitizer, beside twice as many spinning processes as cores. Every item is
counted. A hang, a wrong count or a race ends it with status 1.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from loadtests.harness.command import MeasurementError, Report, make_parser, run_command
from loadtests.harness.pool_programs import (
    THREAD_SANITIZER,
    YIELDS,
    busy_machine,
    compile_pool,
    stress_pool,
)
from server.native.build import SOURCE_DIR

_THREADS = range(2, 9)
_ROUNDS = 11
_BENCH_SECONDS = 0.5
_NUM_NEIGHBOURS = 4


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    assert __doc__ is not None
    parser = make_parser("pool_stress", __doc__, quick="half a minute")
    parser.add_argument("--minutes", type=float, default=5.0, help="of stress (%(default)s)")
    parser.add_argument(
        "--against", type=Path, metavar="DIR",
        help="csrc of another checkout: first compare phases a second with it, in turns",
    )  # fmt: skip
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace) -> Report:
    """Speed where asked for, then the stress. Raises `MeasurementError` for what the pool did."""
    with tempfile.TemporaryDirectory(prefix="pool-stress-") as folder:
        speed = {} if arguments.against is None else _speed(Path(folder), arguments.against)
        seconds = 30.0 if arguments.quick else 60.0 * arguments.minutes
        return {"speed": speed, "stress": _stress(Path(folder), seconds)}


def _stress(folder: Path, seconds: float) -> Report:
    """Every number of threads, each build in turn."""
    builds = {
        "plain": compile_pool("pool_stress", folder / "plain", YIELDS),
        "ThreadSanitizer": compile_pool("pool_stress", folder / "san", YIELDS + THREAD_SANITIZER),
    }
    num_busy = 2 * (os.cpu_count() or 1)
    each = seconds / (len(_THREADS) * len(builds))
    rows: list[Report] = []
    started = time.monotonic()
    print(f"{num_busy} spinning processes beside it\n")
    print(f"{'threads':>7} {'build':>16} {'calls':>9} {'phases':>10} {'hangs':>6} {'races':>6}")
    with busy_machine(num_busy):
        for num_threads in _THREADS:
            for name, program in builds.items():
                sanitized = name == "ThreadSanitizer"
                run = stress_pool(program, num_threads, each, sanitized=sanitized)
                rows.append({"threads": num_threads, "build": name, **asdict(run)})
                print(
                    f"{num_threads:>7} {name:>16} {run.num_calls:>9} {run.num_phases:>10}"
                    f" {run.hung:>6} {run.num_races:>6}",
                    flush=True,
                )
                if run.failure:
                    raise MeasurementError(f"{num_threads} threads, {name}: {run.failure}")
    print(
        f"{'all':>7} {'':>16} {sum(row['num_calls'] for row in rows):>9}"
        f" {sum(row['num_phases'] for row in rows):>10} {0:>6} {0:>6}"
        f"   in {time.monotonic() - started:.0f} s"
    )
    return {"busy_processes": num_busy, "runs": rows}


def _speed(folder: Path, other: Path) -> Report:
    """Phases a second of both pools in turns: alone, and four processes on the same cores."""
    programs = {
        "other": compile_pool("pool_bench", folder / "other", sources=other),
        "this": compile_pool("pool_bench", folder / "this", sources=SOURCE_DIR),
    }
    alone: dict[str, list[float]] = {name: [] for name in programs}
    shared: dict[str, list[list[float]]] = {name: [] for name in programs}
    for turn in range(_ROUNDS):
        for name in sorted(programs, reverse=turn % 2 == 1):
            alone[name] += _phases_per_second(programs[name], 1)
            shared[name].append(_phases_per_second(programs[name], _NUM_NEIGHBOURS))
    medians = {name: statistics.median(values) for name, values in alone.items()}
    totals = {name: statistics.median(map(sum, values)) for name, values in shared.items()}
    least = {
        name: statistics.median(min(values) / sum(values) for values in rounds)
        for name, rounds in shared.items()
    }
    print(f"{'pool':>6} {'phases/s':>9} {'of 4 processes':>15} {'least share of one':>19}")
    for name in programs:
        print(f"{name:>6} {medians[name]:>9.0f} {totals[name]:>15.0f} {least[name]:>19.1%}")
    print(
        f"this / other: {medians['this'] / medians['other']:.3f} alone,"
        f" {totals['this'] / totals['other']:.3f} four at once\n",
        flush=True,
    )
    return {"alone": medians, "four": totals, "least_share": least}


def _phases_per_second(program: Path, num_processes: int) -> list[float]:
    """Of so many processes at once, with one thread a core each."""
    command = [str(program), str(os.cpu_count() or 1), str(_BENCH_SECONDS * num_processes)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(num_processes)
    ]
    return [float(process.communicate()[0]) for process in running]


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    return run_command("pool_stress", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
