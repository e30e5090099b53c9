"""What adapters of different ranks in one batch cost, beside the bytes that they move.

Decode steps of 32 rows, each row over an adapter of its own: all of rank 8, of 16, of 64, and the
three mixed; and without adapters. The steps run in this process through the server's own model
floor, without HTTP and scheduling, in turns, so that whatever else the machine does hits all alike;
medians of the model's time are printed.

Bytes moved are those of the base weights and of each row's adapter pages and keys and values, each
read once. The read bandwidth that they are held against is measured in the same run.

Takes about 1 minute on 2 cores, and 2 GB of memory for the adapters.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adapters.base.quantization import QuantizationSpec
from adapters.rank_pages import pages_for_rank
from loadtests.harness.command import Report, add_base, make_parser, run_command
from loadtests.harness.memory_bandwidth import read_bandwidth
from loadtests.harness.report import format_table
from server.core.batch import ScheduledBatch, ScheduledRow, WorkItem
from server.core.request import SamplingParams
from server.model.adapter_pages.host_adapter import PagedAdapter
from server.model.assembly import AssembledModel, ModelSettings, assemble_model
from server.model.forward.native import leave_cores_to_kernels

RANKS = (8, 16, 64)
MIX = "8/16/64 mixed"
_BLOCK_SIZE = 16
_MAX_BATCH_TOKENS = 256
_BURST_STEPS = 5
_GREEDY = SamplingParams(max_tokens=1 << 20, temperature=0.0)
_HEADER = ("rows over", "pages", "adapter MB", "MB moved", "ms a step", "GB/s", "of bandwidth")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of the parts that a step reads."""

    weights: int
    page: int
    token_kv: int

    def step_bytes(self, num_pages: int, num_rows: int, context: int) -> int:
        """Of one decode step over adapters with so many pages in all."""
        return self.weights + num_pages * self.page + num_rows * context * self.token_kv


@dataclass(frozen=True, slots=True)
class MixResult:
    """One kind of batch; `step_ms` is the median time in the model."""

    label: str
    num_pages: int
    adapter_bytes: int
    moved_bytes: int
    step_ms: float

    @property
    def bytes_per_second(self) -> float:
        return self.moved_bytes / self.step_ms * 1e3


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("rank_mix", str(__doc__), quick="8 rows, 10 steps (20 seconds)")
    add_base(parser)
    parser.add_argument("--rows", type=int, default=32, help="of a batch (%(default)s)")
    parser.add_argument("--context", type=int, default=128, help="tokens a row (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="timed of each kind (%(default)s)")
    parser.add_argument("--backend", default="auto", help="auto, native or reference (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1,
        help="that read memory for the bandwidth (%(default)s)",
    )  # fmt: skip
    return parser.parse_args(argv)


def batch_pages(num_rows: int) -> dict[str, list[tuple[int, ...]]]:
    """For each kind of batch the bank pages of each row; no two rows of a batch share one.

    The mix takes adapters of the uniform batches, so all kinds lie in the bank at once.
    """
    uniform: dict[int, list[tuple[int, ...]]] = {}
    first = 0
    for rank in RANKS:
        each = pages_for_rank(rank)
        starts = range(first, first + num_rows * each, each)
        uniform[rank] = [tuple(range(start, start + each)) for start in starts]
        first += num_rows * each
    kinds: dict[str, list[tuple[int, ...]]] = {"no adapters": [()] * num_rows}
    kinds |= {f"rank {rank}": pages for rank, pages in uniform.items()}
    turns = itertools.cycle(RANKS)
    kinds[MIX] = [uniform[next(turns)][row] for row in range(num_rows)]
    return kinds


def expected_ms(results: Sequence[MixResult], moved_bytes: int) -> float:
    """What a step of so many bytes takes on the line through the kinds of one rank each."""
    uniform = [result for result in results if result.label != MIX and result.num_pages]
    slope, intercept = statistics.linear_regression(
        [result.moved_bytes for result in uniform], [result.step_ms for result in uniform]
    )
    return slope * moved_bytes + intercept


class RankMix:
    """A loaded model with its bank full of random adapters and KV for every row."""

    def __init__(self, arguments: argparse.Namespace, num_rows: int) -> None:
        self.kinds = batch_pages(num_rows)
        self._context = int(arguments.context)
        self._blocks_each = -(-self._context // _BLOCK_SIZE)
        num_pages = 1 + max(page for rows in self.kinds.values() for row in rows for page in row)
        self._model = _load(arguments, num_pages)
        self._fill_bank(num_pages)
        self._fill_cache(num_rows)
        memory = self._model.runner.memory_bytes()
        self.traffic = Traffic(
            weights=memory["weights"],
            page=memory["adapter_bank"] // num_pages,
            token_kv=memory["kv_cache"] // (self._model.num_blocks * _BLOCK_SIZE),
        )

    @property
    def backend(self) -> str:
        return self._model.backend

    def measure(self, num_steps: int) -> list[MixResult]:
        """Time every kind in turns, a burst of steps each."""
        batches = {label: self._decode_batch(pages) for label, pages in self.kinds.items()}
        seconds: Mapping[str, list[float]] = {label: [] for label in batches}
        for _ in range(max(1, num_steps // _BURST_STEPS)):
            for label, batch in batches.items():
                self._model.runner.execute(batch)  # the last kind's pages leave the caches here
                for _ in range(_BURST_STEPS):
                    seconds[label].append(self._model.runner.execute(batch).model_seconds)
        return [self._result(label, pages, seconds[label]) for label, pages in self.kinds.items()]

    def _result(
        self, label: str, rows: Sequence[Sequence[int]], seconds: Sequence[float]
    ) -> MixResult:
        num_pages = sum(len(pages) for pages in rows)
        return MixResult(
            label=label,
            num_pages=num_pages,
            adapter_bytes=num_pages * self.traffic.page,
            moved_bytes=self.traffic.step_bytes(num_pages, len(rows), self._context),
            step_ms=statistics.median(seconds) * 1e3,
        )

    def _fill_bank(self, num_pages: int) -> None:
        """The same random page everywhere: the memory differs, and speed asks for no more."""
        layout = self._model.page_layout
        generator = torch.Generator().manual_seed(0)
        page = torch.randn(1, layout.page_elements, generator=generator) * 0.01
        scales = torch.ones(len(layout.places))
        for index in range(num_pages):
            self._model.runner.place_adapter([index], PagedAdapter("random", page, scales[None]))

    def _fill_cache(self, num_rows: int) -> None:
        """Write every row's context: pages that were never written are one page of zeros."""
        tokens = [1 + index % 100 for index in range(self._context)]
        for row in range(num_rows):
            for start in range(0, self._context, _MAX_BATCH_TOKENS):
                chunk = tokens[start : start + _MAX_BATCH_TOKENS]
                self._model.runner.execute(ScheduledBatch((self._row(row, chunk, start, ()),)))

    def _decode_batch(self, pages: Sequence[Sequence[int]]) -> ScheduledBatch:
        """One more token for every row, always at the same place."""
        last = self._context - 1
        return ScheduledBatch(
            tuple(self._row(row, [1], last, own) for row, own in enumerate(pages))
        )

    def _row(
        self, row: int, token_ids: Sequence[int], start: int, pages: Sequence[int]
    ) -> ScheduledRow:
        first = row * self._blocks_each
        return ScheduledRow(
            sequence_id=row,
            token_ids=token_ids,
            start=start,
            block_ids=range(first, first + self._blocks_each),
            work=[WorkItem(page, 1.0) for page in pages],
            sampling=_GREEDY,
            samples=True,
            seed=row,
            num_generated=start,
        )


def _load(arguments: argparse.Namespace, num_pages: int) -> AssembledModel:
    model = assemble_model(
        ModelSettings(
            base=arguments.base,
            quantization=QuantizationSpec(),
            device=arguments.device,
            dtype="auto",
            backend=arguments.backend,
            max_model_len=None,
            block_size=_BLOCK_SIZE,
            kv_cache_gib=1.0,
            num_adapter_pages=num_pages,
            max_batch_tokens=_MAX_BATCH_TOKENS,
            max_num_sequences=_MAX_BATCH_TOKENS,
        )
    )
    if model.backend.startswith("native"):
        leave_cores_to_kernels()
    return model


def measure(arguments: argparse.Namespace) -> Report:
    """Load, time, print the table."""
    num_rows, num_steps = (8, 10) if arguments.quick else (arguments.rows, arguments.steps)
    bandwidth = read_bandwidth(arguments.threads)
    mix = RankMix(arguments, num_rows)
    results = mix.measure(num_steps)
    bandwidth = max(bandwidth, read_bandwidth(arguments.threads))
    print(f"\n{num_rows} rows of {arguments.context} tokens, backend {mix.backend}; "
          f"{arguments.threads} threads read {bandwidth / 1e9:.1f} GB/s")  # fmt: skip
    print(format_table(_HEADER, [_table_row(result, bandwidth) for result in results]))
    mixed = next(result for result in results if result.label == MIX)
    expected = expected_ms(results, mixed.moved_bytes)
    print(f"the mix takes {mixed.step_ms:.2f} ms; by its bytes, on the line through the ranks "
          f"alone, {expected:.2f} ms: {mixed.step_ms / expected:.2f}x")  # fmt: skip
    return {
        "num_rows": num_rows,
        "context": arguments.context,
        "backend": mix.backend,
        "read_bytes_per_second": bandwidth,
        "traffic": dataclasses.asdict(mix.traffic),
        "kinds": [dataclasses.asdict(result) for result in results],
        "mix_over_expected": mixed.step_ms / expected,
    }


def _table_row(result: MixResult, bandwidth: float) -> tuple[str, ...]:
    return (
        result.label,
        str(result.num_pages),
        f"{result.adapter_bytes / 1e6:.0f}",
        f"{result.moved_bytes / 1e6:.0f}",
        f"{result.step_ms:.2f}",
        f"{result.bytes_per_second / 1e9:.1f}",
        f"{result.bytes_per_second / bandwidth:.0%}",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when the model can't be loaded."""
    return run_command("rank_mix", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
