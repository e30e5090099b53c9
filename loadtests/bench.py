"""`make bench`: closed-loop streaming clients over distinct adapters, beside PEFT's mixed batch.

    python -m loadtests.bench [--quick] [--json FILE] [--url URL=LABEL --model NAME ...] [--no-peft]

Takes about 10 minutes on 2 cores, with --quick about 3.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.harness.adapter_pins import pin_on_device, unpin
from loadtests.harness.closed_loop import AnswerShape, ClosedLoop
from loadtests.harness.http_client import HttpClientError
from loadtests.harness.metrics_page import MetricsDelta, read_metrics
from loadtests.harness.report import CELL_HEADER, CellResult, cell_row, format_memory, format_table
from loadtests.harness.server_process import ServerStartError, base_model_id, running_server

NUM_CLIENTS = (1, 8, 32)
NUM_ADAPTERS = (0, 1, 8, 32)
TARGET_RATIO = 20.0
TARGET_GAP_MS = 5.0
OURS = "switchyard"
_SETS = {
    "lora": ("lora",),
    "loaded": ("loaded",),
    "mixed": ("mixed",),
    "both": ("lora", "loaded", "mixed"),
}
_LABELS = {"lora": OURS, "loaded": f"{OURS}, all kinds loaded", "mixed": f"{OURS}, mixed kinds"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `num_requests_each` has one entry per entry of `num_clients`."""

    base: str
    num_clients: tuple[int, ...]
    num_adapters: tuple[int, ...]
    num_requests_each: tuple[int, ...]
    rank: int
    shape: AnswerShape
    server_args: tuple[str, ...]
    kinds: tuple[str, ...] = ("lora",)


@dataclass(frozen=True, slots=True)
class ServerMeasurement:
    """The cells of one server, and of our own its memory at the end by (device, component).

    `process_bytes` is the whole process: once ready, and once every adapter has been used.
    """

    cells: tuple[CellResult, ...]
    memory: dict[tuple[str, str], int] = field(default_factory=dict)
    process_bytes: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that is running already."""

    url: str
    label: str


def _peer(text: str) -> Peer:
    url, equals, label = text.rpartition("=")
    return Peer(url, label) if equals else Peer(text, text)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description="Tokens/s, time to first token and inter-token time of streaming clients over "
        "distinct random adapters, then PEFT's own mixed batch in process.",
    )
    parser.add_argument("--base", default="embedded:smollm2-135m-instruct", metavar="REF")
    parser.add_argument("--rank", type=int, default=16, help="of each adapter (%(default)s)")
    parser.add_argument(
        "--kinds", choices=tuple(_SETS), default="lora",
        help="mixed: every adapter of another kind in turn (LoRA, DoRA, IA3, LoRA bias, prompt and "
        "prefix tuning), which PEFT can't batch; loaded: LoRA, with one adapter of each of the 20 "
        "kinds kept on the device meanwhile; both: LoRA, loaded and mixed in one run, side by side "
        "(three times as long, and a minute more) (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, default=64, help="per answer (%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="only 1 and 32 clients, 0 and 32 adapters, one round"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    parser.add_argument(
        "--url", action="append", default=[], metavar="URL[=LABEL]", type=_peer,
        help="also measure this OpenAI-compatible server (without /v1), e.g. "
        "http://127.0.0.1:8080=llama.cpp; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--llama-server", type=Path, metavar="BINARY",
        help="also start and measure this llama.cpp server on the embedded base's own Q4_1 file, "
        "with 0, 1 and 8 of the same adapters",
    )  # fmt: skip
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME",
        help="take turns with these models on --url; default: the first that it lists",
    )  # fmt: skip
    parser.add_argument(
        "--no-ignore-eos", action="store_true",
        help="don't send ignore_eos (for a --url that refuses it); answers may then be shorter",
    )  # fmt: skip
    parser.add_argument(
        "--own", action=argparse.BooleanOptionalAction, default=True, help="measure our server"
    )
    parser.add_argument(
        "--peft", action=argparse.BooleanOptionalAction, default=True, help="measure PEFT after it"
    )
    parser.add_argument(
        "--server-arg", action="append", default=[], metavar="ARG",
        help="passed on to our server, e.g. --server-arg=--device=cuda",
    )  # fmt: skip
    return parser.parse_args(argv)


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The grid that the command line asks for."""
    quick = bool(arguments.quick)
    return Plan(
        base=arguments.base,
        num_clients=(1, 32) if quick else NUM_CLIENTS,
        num_adapters=(0, 32) if quick else NUM_ADAPTERS,
        num_requests_each=(2, 1) if quick else (4, 4, 3),
        rank=arguments.rank,
        shape=AnswerShape(arguments.tokens, not arguments.no_ignore_eos),
        server_args=tuple(arguments.server_arg),
        kinds=_SETS[arguments.kinds],
    )


async def measure_own(
    plan: Plan, scratch: Path, every_kind: Sequence[str] = ()
) -> ServerMeasurement:
    """Start our server over the store in `scratch`, measure, stop it."""
    store, log_file = scratch / "store", scratch / "server.log"
    async with running_server(plan.base, store, log_file, plan.server_args) as url:
        return await measure_sets(url, plan, every_kind)


async def measure_sets(url: str, plan: Plan, every_kind: Sequence[str]) -> ServerMeasurement:
    """The grid for each set of kinds on our server at `url`, and its memory.

    `every_kind` are the adapters that are kept on the device while "loaded" is measured.
    """
    at_start = await read_metrics(url)
    base_id = await base_model_id(url)
    cells: list[CellResult] = []
    # No prompt comes twice: "lora" and "loaded" ask the same adapters.
    serials = itertools.count()
    for kinds in plan.kinds:
        prefix = "mixed" if kinds == "mixed" else "bench"
        names = [f"{prefix}-{index:02d}" for index in range(max(plan.num_adapters))]
        loop = ClosedLoop(_LABELS[kinds], url, plan.shape, serials=serials)
        if kinds == "loaded":
            await pin_on_device(url, every_kind)
        await loop.warm_up([base_id, *names], max(plan.num_clients))
        for num_adapters in plan.num_adapters:
            models = names[:num_adapters] or [base_id]
            cells += await _measure_widths(loop, models, num_adapters, plan, own_url=url)
        if kinds == "loaded":
            await unpin(url, every_kind)
    at_end = await read_metrics(url)
    process_bytes = at_start.process_bytes, at_end.process_bytes
    return ServerMeasurement(tuple(cells), at_end.memory(), process_bytes)


async def measure_foreign(plan: Plan, peer: Peer, models: Sequence[str]) -> ServerMeasurement:
    """The client widths against a server that is running already, over the given models."""
    names = list(models) or [await base_model_id(peer.url)]
    loop = ClosedLoop(peer.label, peer.url, plan.shape)
    await loop.warm_up(names, max(plan.num_clients))
    return ServerMeasurement(tuple(await _measure_widths(loop, names, len(models), plan)))


async def _measure_widths(
    loop: ClosedLoop,
    models: Sequence[str],
    num_adapters: int,
    plan: Plan,
    *,
    own_url: str | None = None,
) -> list[CellResult]:
    cells: list[CellResult] = []
    for num_clients, num_each in zip(plan.num_clients, plan.num_requests_each, strict=True):
        if own_url is None:
            cell = await loop.measure(models, num_clients, num_each, num_adapters)
        else:
            before = await read_metrics(own_url)
            cell = await loop.measure(models, num_clients, num_each, num_adapters)
            delta = MetricsDelta(before, await read_metrics(own_url))
            cell = replace(cell, python_share=delta.python_share(cell.wall_seconds))
        print(f"  {cell.server}: {num_clients} clients, {num_adapters} adapters: "
              f"{cell.tokens_per_second:.1f} tokens/s", flush=True)  # fmt: skip
        cells.append(cell)
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the JSON. Returns the exit status: 1 when a request failed."""
    arguments = parse_arguments(argv)
    plan = make_plan(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="switchyard-bench-") as scratch:
            report = _run(arguments, plan, Path(scratch))
    except (HttpClientError, ServerStartError, ValueError) as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        print(f"\nwritten to {arguments.json}")
    return 0


def _run(arguments: argparse.Namespace, plan: Plan, scratch: Path) -> dict[str, object]:
    print(f"{os.cpu_count()} CPU cores; {plan.base}; rank {plan.rank} on all linears; "
          f"{plan.shape.num_tokens} tokens an answer, greedy", flush=True)  # fmt: skip
    folders: dict[str, Path] = {}
    every_kind: list[str] = []
    arguments.peft &= arguments.kinds == "lora"
    if arguments.own or arguments.peft or arguments.llama_server:
        # Imported late: a run over --url alone needs no torch.
        from loadtests.fixtures.bench_store import fill_bench_store

        folders, every_kind = fill_bench_store(
            scratch, plan.base, max(plan.num_adapters), plan.rank, plan.kinds
        )
    cells: list[CellResult] = []
    own = ServerMeasurement(())
    if arguments.own:
        own = asyncio.run(measure_own(plan, scratch, every_kind))
        cells += own.cells
    for peer in arguments.url:
        cells += asyncio.run(measure_foreign(plan, peer, arguments.model)).cells
    if arguments.llama_server is not None:
        cells += _measure_llama_cpp(arguments.llama_server, plan, folders, scratch)
    print("\n" + format_table(CELL_HEADER, [cell_row(cell) for cell in cells]))
    print(
        "client CPU is the benchmark's own share of one core; it runs on the same machine.\n"
        "Python is the part of the wall time that our server spent outside of the model."
    )
    if len(plan.kinds) > 1:
        print("\n" + _side_by_side(cells))
    print_summary(cells)
    _print_memory(own, max(plan.num_adapters))
    return {
        "plan": dataclasses.asdict(plan),
        "cells": [dataclasses.asdict(cell) for cell in cells],
        "memory_bytes": {f"{device}/{part}": size for (device, part), size in own.memory.items()},
        "process_bytes": own.process_bytes,
        "peft": _compare_with_peft(plan, folders, cells) if arguments.peft else None,
    }


def _side_by_side(cells: Sequence[CellResult]) -> str:
    """Tokens/s of the same cell by what the adapters are, and each over LoRA alone."""
    speeds = {(c.server, c.num_clients, c.num_adapters): c.tokens_per_second for c in cells}
    places = dict.fromkeys((c.num_clients, c.num_adapters) for c in cells if c.server == OURS)
    rows = []
    for place in places:
        plain = speeds[OURS, *place]
        others = [speeds[_LABELS[kinds], *place] for kinds in ("loaded", "mixed")]
        texts = [f"{speed:.1f} ({speed / plain:.2f})" for speed in others]
        rows.append((str(place[0]), str(place[1]), f"{plain:.1f}", *texts))
    header = ("clients", "adapters", "LoRA tokens/s", "all kinds loaded", "mixed kinds")
    return format_table(header, rows)


def _measure_llama_cpp(
    binary: Path, plan: Plan, folders: dict[str, Path], scratch: Path
) -> list[CellResult]:
    """The base at every width; one adapter at the first and the last, eight at the last."""
    from loadtests.harness.llama_peer import Width, measure_llama_cpp

    pairs = list(zip(plan.num_clients, plan.num_requests_each, strict=True))
    widths = [Width(*pair, 0) for pair in pairs]
    widths += [Width(*pairs[0], 1), Width(*pairs[-1], 1), Width(*pairs[-1], 8)]
    chosen = list(folders.values())[:8]
    return asyncio.run(measure_llama_cpp(binary, plan.base, chosen, widths, plan.shape, scratch))


def print_summary(cells: Sequence[CellResult]) -> None:
    """One client in a line, and our speed over that of each peer at the same width."""
    ours = [cell for cell in cells if cell.server == OURS]
    if singles := [cell for cell in ours if cell.num_clients == 1]:
        parts = (
            f"{cell.num_adapters} adapters {cell.tokens_per_second:.1f} tokens/s, "
            f"inter-token p50 {cell.gap_p50_ms:.2f} ms"
            for cell in singles
        )
        print(f"\none client: {'; '.join(parts)} (target: under {TARGET_GAP_MS:.0f} ms)")
    for peer in cells:
        if peer.server in _LABELS.values():  # the sets of kinds have a table of their own
            continue
        same = [cell for cell in ours if cell.num_clients == peer.num_clients]
        ratios = (
            f"{cell.tokens_per_second / peer.tokens_per_second:.1f}x at {cell.num_adapters}"
            for cell in same
        )
        if same:
            print(f"switchyard / {peer.server} ({peer.num_adapters} adapters), "
                  f"{peer.num_clients} clients: {', '.join(ratios)} adapters")  # fmt: skip


def _print_memory(own: ServerMeasurement, num_adapters: int) -> None:
    if own.memory:
        print("\nmemory of our server at the end\n" + format_memory(own.memory))
    if own.process_bytes:
        at_start, at_end = (size / 2**20 for size in own.process_bytes)
        print(f"whole process: {at_start:.1f} MiB at start, {at_end:.1f} MiB once "
              f"{num_adapters} adapters were used")  # fmt: skip


def _compare_with_peft(
    plan: Plan, folders: dict[str, Path], cells: Sequence[CellResult]
) -> dict[str, object]:
    from loadtests.harness.peft_baseline import SETTINGS, measure_peft

    num_rows = max(plan.num_clients)
    print(f"\nPEFT mixed batch, {num_rows} rows over {len(folders)} adapters", flush=True)
    speeds: dict[str, float] = {}
    for setting in SETTINGS:
        result = measure_peft(plan.base, folders, num_rows, plan.shape.num_tokens, setting)
        speeds[setting.name] = result.tokens_per_second
        print(f"  {setting.name}: {result.tokens_per_second:.1f} tokens/s", flush=True)
    best = max(speeds.values())
    ours = [
        cell.tokens_per_second
        for cell in cells
        if (cell.server, cell.num_clients, cell.num_adapters) == (OURS, num_rows, len(folders))
    ]
    ratio = ours[0] / best if ours else None
    if ratio is not None:
        print(f"  switchyard / PEFT at its best: {ours[0]:.1f} / {best:.1f} = {ratio:.1f}x "
              f"(target {TARGET_RATIO:.0f}x)")  # fmt: skip
    return {"tokens_per_second": speeds, "ratio": ratio}


if __name__ == "__main__":
    raise SystemExit(main())
