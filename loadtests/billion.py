"""A Llama of 1 billion parameters in NF4 beside the same in bf16: memory and tokens/s.

The model has random weights and is built on the spot (hidden 2048, 16 layers, intermediate 8192, 32
heads over 8 key-value heads; the tokenizer of the embedded base). It takes 2.1 GB below --workdir
and is deleted at the end unless --keep is given; a kept one is used again. Our server serves it in
one format after the other.

Takes about 5 minutes on 2 cores, and 6 GB of memory.
"""

import argparse
import asyncio
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.fixtures.random_llama import LlamaSizes, build_random_llama
from loadtests.harness.closed_loop import AnswerShape, ClosedLoop
from loadtests.harness.command import (
    Report,
    add_server_arg,
    make_parser,
    run_command,
    whole_numbers,
)
from loadtests.harness.metrics_page import read_metrics
from loadtests.harness.report import CellResult, format_memory, format_table
from loadtests.harness.server_process import base_model_id, running_server

SCHEMES = ("nf4", "none")
TITLES = {"nf4": "NF4", "none": "bf16"}
_FOLDER = "random-llama"
# No adapters here: the smallest bank that the default max_lora_rank allows.
_SERVER_FLAGS = ("--adapter-bank-pages=8", "--max-model-len=1024", "--kv-cache-gib=0.5")
_HEADER = (
    "weights", "clients", "tokens/s", "TTFT p50 ms", "inter-token p50 ms", "p99", "start s",
    "weights MiB", "process MiB",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SchemeResult:
    """One format. `memory` is by (device, component), `process_bytes` the whole process."""

    scheme: str
    cells: tuple[CellResult, ...]
    memory: dict[tuple[str, str], int]
    process_bytes: int
    start_seconds: float

    @property
    def weight_bytes(self) -> int:
        return sum(size for (_, part), size in self.memory.items() if part == "weights")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser(
        "billion", str(__doc__), quick="2 layers, 16-token answers, one request (1 minute)"
    )
    parser.add_argument("--layers", type=int, default=16, help="of the model (%(default)s)")
    parser.add_argument(
        "--clients", type=whole_numbers, default=(1, 8), metavar="N,N...", help="(1,8)"
    )
    parser.add_argument("--tokens", type=int, default=64, help="per answer (%(default)s)")
    parser.add_argument("--requests", type=int, default=2, help="of each client (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="don't delete the model at the end")
    parser.add_argument(
        "--workdir", type=Path, default=Path("var"), metavar="DIR",
        help="where the model's folder is made (%(default)s)",
    )  # fmt: skip
    add_server_arg(parser)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.layers, arguments.tokens, arguments.requests = 2, 16, 1
    return arguments


async def measure_scheme(
    arguments: argparse.Namespace, model: Path, scheme: str, scratch: Path
) -> SchemeResult:
    """Serve the model in this format, run the clients, read the memory."""
    flags = (f"--quantization={scheme}", *_SERVER_FLAGS, *arguments.server_arg)
    start = time.perf_counter()
    async with running_server(str(model), scratch / "store", scratch / "server.log", flags) as url:
        start_seconds = time.perf_counter() - start
        base_id = await base_model_id(url)
        loop = ClosedLoop(TITLES[scheme], url, AnswerShape(arguments.tokens))
        await loop.warm_up([base_id], max(arguments.clients))
        cells: list[CellResult] = []
        for num_clients in arguments.clients:
            cells.append(await loop.measure([base_id], num_clients, arguments.requests, 0))
            print(f"  {TITLES[scheme]}: {num_clients} clients: "
                  f"{cells[-1].tokens_per_second:.1f} tokens/s", flush=True)  # fmt: skip
        page = await read_metrics(url)
    return SchemeResult(scheme, tuple(cells), page.memory(), page.process_bytes, start_seconds)


def measure(arguments: argparse.Namespace) -> Report:
    """Build the model, serve it in each format, print the tables."""
    sizes = LlamaSizes(num_layers=arguments.layers)
    model = arguments.workdir / _FOLDER
    try:
        start = time.perf_counter()
        num_parameters = build_random_llama(model, sizes)
        print(f"  {num_parameters / 1e9:.2f} billion parameters, built in "
              f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
        results: list[SchemeResult] = []
        with tempfile.TemporaryDirectory(prefix="switchyard-billion-") as scratch:
            for scheme in SCHEMES:
                work = measure_scheme(arguments, model, scheme, Path(scratch))
                results.append(asyncio.run(work))
    finally:
        if not arguments.keep:
            shutil.rmtree(model, ignore_errors=True)
    _print(results)
    return {
        "num_parameters": num_parameters,
        "sizes": dataclasses.asdict(sizes),
        "schemes": [_plain(result) for result in results],
    }


def _print(results: Sequence[SchemeResult]) -> None:
    rows = [_row(result, cell) for result in results for cell in result.cells]
    print("\n" + format_table(_HEADER, rows))
    for result in results:
        print(f"\nmemory, {TITLES[result.scheme]}\n" + format_memory(result.memory))
    print("\n" + "\n".join(ratio_lines(*results)))


def ratio_lines(nf4: SchemeResult, bf16: SchemeResult) -> list[str]:
    """What 4 bits save and gain, a line for each."""
    lines = [
        f"NF4 / bf16, weights: {nf4.weight_bytes / bf16.weight_bytes:.2f} of the bytes",
        f"NF4 / bf16, whole process: {nf4.process_bytes / bf16.process_bytes:.2f} of the bytes",
    ]
    for ours, plain in zip(nf4.cells, bf16.cells, strict=True):
        ratio = ours.tokens_per_second / plain.tokens_per_second
        lines.append(f"NF4 / bf16, {ours.num_clients} clients: {ratio:.2f}x the tokens/s")
    return lines


def _row(result: SchemeResult, cell: CellResult) -> tuple[str, ...]:
    return (
        TITLES[result.scheme],
        str(cell.num_clients),
        f"{cell.tokens_per_second:.1f}",
        f"{cell.ttft_p50_ms:.0f}",
        f"{cell.gap_p50_ms:.1f}",
        f"{cell.gap_p99_ms:.1f}",
        f"{result.start_seconds:.1f}",
        f"{result.weight_bytes / 2**20:.0f}",
        f"{result.process_bytes / 2**20:.0f}",
    )


def _plain(result: SchemeResult) -> dict[str, object]:
    memory = {f"{device}/{part}": size for (device, part), size in result.memory.items()}
    return {**dataclasses.asdict(result), "memory": memory}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when the model can't be built or a request failed."""
    return run_command("billion", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
