"""The bookkeeping of decode graphs, with a capture that runs the model again on the CPU."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from server.model.forward.cuda_graphs import (
    DecodeGraphs,
    Replay,
    StaticDecodeInputs,
    choose_bucket,
    default_buckets,
)
from server.model.forward.generic import GenericModel
from server.model.kernels import reference
from server.model.kernels.backends import StepWork
from server.model.kernels.work_plan import WorkPlan
from server.model.kv_cache import KVCache
from server.model.step.runner import TorchRunner
from server.model.step.step_inputs import StepInputs
from tests.kernels.steps import make_step
from tests.unit.server.model.tiny import BLOCK_SIZE, WINDOW, TinyEngine, make_adapter, tiny_model

NUM_BLOCKS = 120
# float32 in batches of another size.
LOGITS_ATOL = 2e-4


def replayed(run: Callable[[], torch.Tensor]) -> Replay:
    """As a graph does it: the output stays where it is and is overwritten by each replay."""
    output = run()

    def replay() -> torch.Tensor:
        return output.copy_(run())

    return replay


class CountingModel:
    """A generic model that counts its steps; the work is made from the step, as it always is."""

    def __init__(self, model: GenericModel) -> None:
        self.model = model
        self.sizes: list[int] = []

    def forward(
        self, step: StepInputs, cache: KVCache, work: StepWork | None = None
    ) -> torch.Tensor:
        self.sizes.append(step.num_rows)
        return self.model.forward(step, cache)


def use_graphs(
    engine: TinyEngine, *, max_rows: int, capture: Any = replayed
) -> tuple[CountingModel, KVCache]:
    """Let `engine` decode through graphs, over a cache with a scratch block."""
    generic, bank = engine.runner._model, engine.runner._bank
    assert isinstance(generic, GenericModel)
    cache = KVCache(
        generic.geometry,
        num_blocks=NUM_BLOCKS + 1,
        block_size=BLOCK_SIZE,
        dtype=torch.float32,
        device="cpu",
    )
    model = CountingModel(generic)
    graphs = DecodeGraphs(
        model,
        cache,
        lambda step, _tables: reference.AdapterWork(step),
        max_rows=max_rows,
        max_model_len=WINDOW,
        device="cpu",
        capture=capture,
    )
    graphs.capture()
    model.sizes.clear()
    engine.runner = TorchRunner(graphs, cache, bank, weight_bytes=0, device="cpu")
    return model, cache


def requests(engine: TinyEngine, folder: Path) -> list[Any]:
    small, large = (engine.load(folder / str(rank), rank) for rank in (4, 12))
    prompts = [[5 + (7 * i * n) % 240 for i in range(1, n + 1)] for n in (12, 3, 9, 6, 1)]
    stacks: list[Any] = [[(small, 1.0)], [], [(small, 0.7), (large, 0.3)], [(large, 1.0)], []]
    return list(zip(prompts, stacks, strict=True))


def test_buckets() -> None:
    assert default_buckets(1) == (1,)
    assert default_buckets(6) == (1, 2, 4, 6)
    assert default_buckets(20) == (1, 2, 4, 8, 16, 20)
    assert default_buckets(32) == (1, 2, 4, 8, 16, 24, 32)
    assert choose_bucket((1, 2, 4), 1) == 1
    assert choose_bucket((1, 2, 4), 3) == 4
    assert choose_bucket((1, 2, 4), 5) is None


def test_padded_decode_gives_the_same_answers_and_touches_no_other_block(tmp_path: Path) -> None:
    """Five rows in a bucket of eight, then fewer, then more: as without graphs."""
    model = tiny_model("llama")
    for rank in (4, 12):
        make_adapter(copy.deepcopy(model), tmp_path / str(rank), rank=rank, seed=rank)
    plain = TinyEngine(copy.deepcopy(model))
    graphed = TinyEngine(model)
    counting, cache = use_graphs(graphed, max_rows=8)
    plain_requests, graphed_requests = requests(plain, tmp_path), requests(graphed, tmp_path)
    for rows in (slice(0, 5), slice(1, 3), slice(0, 5), slice(4, 5)):
        counting.sizes.clear()
        before = cache.stacked[0].clone()
        tokens, logits = plain.generate(plain_requests[rows], 6)
        graph_tokens, graph_logits = graphed.generate(graphed_requests[rows], 6)
        assert graph_tokens == tokens
        for got, expected in zip(graph_logits, logits, strict=True):
            torch.testing.assert_close(got, expected, atol=LOGITS_ATOL, rtol=0)
        bucket = choose_bucket((1, 2, 4, 8), rows.stop - rows.start)
        assert counting.sizes.count(bucket or 0) >= 4, "no decode step went through a graph"
        # The sequences of this round hold 24 blocks each; no padding row wrote beyond them.
        held = (rows.stop - rows.start) * 24
        assert torch.equal(cache.stacked[0][:, held:NUM_BLOCKS], before[:, held:NUM_BLOCKS])


def test_padding_rows_read_and_write_the_scratch_block_only() -> None:
    inputs = StaticDecodeInputs(4, max_context=32, block_size=4, scratch_block=99, device="cpu")
    addresses = [t.data_ptr() for t in vars(inputs.step).values() if isinstance(t, torch.Tensor)]
    three = make_step([(1, 9, [(1, 0.5)]), (1, 3, []), (1, 7, [(2, 1.0), (3, 1.0)])])
    one = make_step([(1, 5, [(4, 1.0)])])
    for step in (three, one, three):
        inputs.load(step, WorkPlan.for_step(step))
        num_rows = step.num_rows
        static = inputs.step
        assert static.token_ids.tolist() == [*step.token_ids.tolist(), *[0] * (4 - num_rows)]
        assert static.positions[:num_rows].tolist() == step.positions.tolist()
        assert static.slot_mapping[:num_rows].tolist() == step.slot_mapping.tolist()
        assert static.slot_mapping[num_rows:].tolist() == [99 * 4] * (4 - num_rows)
        assert static.seq_lens[num_rows:].tolist() == [1] * (4 - num_rows)
        assert (static.block_tables[num_rows:] == 99).all()
        width = step.block_tables.shape[1]
        assert torch.equal(static.block_tables[:num_rows, :width], step.block_tables)
        num_items = len(step.work_pages)
        assert static.work_offsets[: num_rows + 1].tolist() == step.work_offsets.tolist()
        assert (static.work_offsets[num_rows:] == num_items).all()
        assert static.work_pages[:num_items].tolist() == step.work_pages.tolist()
    assert addresses == [
        t.data_ptr() for t in vars(inputs.step).values() if isinstance(t, torch.Tensor)
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 3, []), (2, 0, [])],
        [(1, 32, [])],
        [(1, 3, [(page, 1.0) for page in range(33)])],
        [(1, 3, [])] * 5,
    ],
    ids=["prefill", "too-long", "too-much-work", "too-many-rows"],
)
def test_what_does_not_fit(rows: Any) -> None:
    inputs = StaticDecodeInputs(4, max_context=32, block_size=4, scratch_block=99, device="cpu")
    step = make_step(rows)
    assert not inputs.fits(step, WorkPlan.for_step(step))


def test_a_refused_capture_leaves_a_server_without_graphs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_run: Callable[[], torch.Tensor]) -> Replay:
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = TinyEngine(tiny_model("llama"))
    counting, _ = use_graphs(engine, max_rows=4, capture=refuse)
    assert "decode runs without CUDA graphs" in caplog.text
    tokens, _ = engine.generate([([5, 6, 7], [])], 4)
    assert len(tokens[0]) == 4
    assert counting.sizes == [1] * 4
