"""Decode steps replayed as CUDA graphs: one launch in place of a few thousand.

Not yet run on a GPU. The bookkeeping (buckets, padding, what stays in place) is tested on the CPU
with a capture that runs the model again; `CudaCapture` is written after PyTorch's documentation of
`torch.cuda.graph`.

A graph replays the same kernels over the same addresses, so a decode step is copied into static
inputs, padded up to the next batch size that was captured. Padded rows compute a token over a
*scratch block*, a block of the KV cache that the scheduler doesn't know, and no real block changes.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from server.model.kernels.backends import StepWork
from server.model.kernels.work_plan import UNIT_ITEMS, WorkPlan, WorkTables
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs

logger = logging.getLogger(__name__)

UNITS_PER_ROW = 4
"""Work units that the static tables have room for, on average over the rows: rank 64 each."""

MAX_CONTEXT_TOKENS = 8192
"""Longer sequences run without a graph, whose attention is launched for the longest it serves."""

_WARM_UP_STEPS = 3


class CapturableModel(Protocol):
    """A way through the model that takes its adapter work from outside, when it is given."""

    def forward(
        self, step: StepInputs, cache: KVCache, work: StepWork | None = None
    ) -> torch.Tensor:
        """[S, vocabulary] logits; writes the step's keys and values into `cache`."""
        ...


Replay = Callable[[], torch.Tensor]
"""Runs what was captured; returns its output, the same tensor each time."""

Capture = Callable[[Callable[[], torch.Tensor]], Replay]


class CudaCapture:
    """Captures functions into graphs that share one memory pool.

    Sharing is sound because no two of them run at once and each one's output is copied before the
    next replay.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], torch.Tensor]) -> Replay:
        """Run a few times, so that kernels are compiled and libraries set up, then capture."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate pinned memory for adapters meanwhile, which "global" forbids.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = run()
        self._pool = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay


def default_buckets(max_rows: int) -> tuple[int, ...]:
    """Batch sizes worth a graph: 1, 2, 4, 8, then every 8 up to `max_rows`, and `max_rows`."""
    sizes = [1, 2, 4, *range(8, max_rows + 1, 8), max_rows]
    return tuple(sorted({size for size in sizes if size <= max_rows}))


def choose_bucket(buckets: Sequence[int], num_rows: int) -> int | None:
    """The smallest bucket with room for `num_rows`; None when there is none. `buckets` ascend."""
    return next((size for size in buckets if size >= num_rows), None)


class StaticDecodeInputs:
    """The inputs of one bucket's graph: `size` decode rows at fixed addresses.

    Owns its tensors. Rows beyond those loaded last are padding: token 0 at position 0 of
    `scratch_block`, without work.
    """

    def __init__(
        self, size: int, *, max_context: int, block_size: int, scratch_block: int, device: str
    ) -> None:
        self.size = size
        self.max_context = max_context
        self._scratch_block = scratch_block
        self._scratch_slot = scratch_block * block_size
        self._num_loaded = 0
        num_units = size * UNITS_PER_ROW
        self.tables = WorkTables(size, num_units, device=device)
        self._max_items = num_units * UNIT_ITEMS

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.step = StepInputs(
            token_ids=zeros(size, dtype=torch.int64),
            positions=zeros(size, dtype=torch.int64),
            slot_mapping=zeros(size, dtype=torch.int64),
            query_starts=torch.arange(size + 1, dtype=torch.int32, device=device),
            seq_lens=zeros(size),
            block_tables=zeros(size, -(-max_context // block_size)),
            sample_tokens=torch.arange(size, device=device),
            work_offsets=zeros(size + 1),
            work_pages=zeros(self._max_items),
            work_scales=zeros(self._max_items, dtype=torch.float32),
            num_decode_rows=size,
            row_lengths=(1,) * size,
            # Launches are sized for the longest sequence that the graph serves.
            starts=(max_context - 1,) * size,
        )
        # For a graph that is only replayed when no row has an adapter.
        self.step_without_work = dataclasses.replace(
            self.step,
            work_offsets=zeros(size + 1),
            work_pages=self.step.work_pages[:0],
            work_scales=self.step.work_scales[:0],
        )
        self._pad(slice(0, size))
        self.tables.load(WorkPlan.empty())

    def fits(self, step: StepInputs, plan: WorkPlan) -> bool:
        return (
            step.num_rows <= self.size
            and step.num_decode_rows == step.num_rows
            and max(step.starts) < self.max_context
            and plan.num_items <= self._max_items
            and self.tables.fits(plan)
        )

    def load(self, step: StepInputs, plan: WorkPlan) -> None:
        """Copy a decode step in; it must fit."""
        assert self.fits(step, plan)
        mine, num_rows, num_items = self.step, step.num_rows, plan.num_items
        for name in ("token_ids", "positions", "slot_mapping", "seq_lens"):
            getattr(mine, name)[:num_rows].copy_(getattr(step, name))
        # A table may be wider than its sequence is long; what lies beyond is never read.
        width = min(step.block_tables.shape[1], mine.block_tables.shape[1])
        mine.block_tables[:num_rows, :width].copy_(step.block_tables[:, :width])
        mine.work_offsets[: num_rows + 1].copy_(step.work_offsets)
        mine.work_offsets[num_rows + 1 :].fill_(num_items)
        mine.work_pages[:num_items].copy_(step.work_pages)
        mine.work_scales[:num_items].copy_(step.work_scales)
        self.tables.load(plan)
        self._pad(slice(num_rows, self._num_loaded))
        self._num_loaded = num_rows

    def _pad(self, rows: slice) -> None:
        if rows.start < rows.stop:
            self.step.token_ids[rows] = 0
            self.step.positions[rows] = 0
            self.step.slot_mapping[rows] = self._scratch_slot
            self.step.seq_lens[rows] = 1
            self.step.block_tables[rows] = self._scratch_block


class DecodeGraphs:
    """A step model that replays decode steps as graphs and runs all others as they are.

    `cache` must have one block more than the scheduler was told: its last one is the scratch block.
    Call `capture` once, before the first step.
    """

    def __init__(
        self,
        model: CapturableModel,
        cache: KVCache,
        make_static_work: Callable[[StepInputs, WorkTables], StepWork],
        *,
        max_rows: int,
        max_model_len: int,
        device: str,
        capture: Capture | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._make_static_work = make_static_work
        self._capture = capture or CudaCapture()
        self._inputs = {
            size: StaticDecodeInputs(
                size,
                max_context=min(max_model_len, MAX_CONTEXT_TOKENS),
                block_size=cache.block_size,
                scratch_block=cache.num_blocks - 1,
                device=device,
            )
            for size in default_buckets(max_rows)
        }
        self._replays: dict[tuple[int, bool], Replay] = {}

    @property
    def num_graphs(self) -> int:
        return len(self._replays)

    keeps_states = False

    def state_bytes(self) -> int:
        """0: a model that keeps states isn't captured."""
        return 0

    def capture(self) -> None:
        """Capture every bucket, with and without adapters, over padding rows alone.

        When the driver or a library refuses, the server goes on without graphs and says so.
        """
        try:
            with torch.inference_mode():
                # The largest first: the smaller ones then fit into the memory it took.
                for size in sorted(self._inputs, reverse=True):
                    for has_work in (False, True):
                        self._replays[size, has_work] = self._capture_bucket(size, has_work)
        except RuntimeError as error:
            self._replays.clear()
            logger.warning("decode runs without CUDA graphs: capturing failed with %s", error)
            return
        logger.info("captured %d CUDA graphs, up to %d rows", self.num_graphs, max(self._inputs))

    def forward(self, step: StepInputs, cache: KVCache) -> torch.Tensor:
        """[S, vocabulary] logits of the rows that sample, in a tensor of their own."""
        assert cache is self._cache
        size = choose_bucket(tuple(self._inputs), step.num_rows)
        if size is None or step.num_decode_rows < step.num_rows or not self._replays:
            return self._model.forward(step, cache)
        if step.extras is not None:  # their rows choose what runs, which a graph can't
            return self._model.forward(step, cache)
        has_work = len(step.work_pages) > 0
        plan = WorkPlan.for_step(step) if has_work else WorkPlan.empty()
        inputs = self._inputs[size]
        if not inputs.fits(step, plan):
            return self._model.forward(step, cache)
        inputs.load(step, plan)
        # Indexing copies: the next replay overwrites the graph's own output.
        return self._replays[size, has_work]()[step.sample_tokens]

    def _capture_bucket(self, size: int, has_work: bool) -> Replay:
        inputs = self._inputs[size]
        step = inputs.step if has_work else inputs.step_without_work
        work = self._make_static_work(step, inputs.tables) if has_work else None
        return self._capture(lambda: self._model.forward(step, self._cache, work))
