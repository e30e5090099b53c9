"""The Triton backend as a whole: chosen for a GPU, and a model that runs on it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from server.model.forward.cuda_graphs import StaticDecodeInputs
from server.model.geometry import AttentionOptions
from server.model.kernels import reference, triton_attention
from server.model.kernels.backends import choose_backend
from server.model.kernels.triton_adapters import TritonAdapterWork
from server.model.kernels.work_plan import WorkPlan
from tests.kernels.steps import Row, device, make_bank, make_cache, make_step
from tests.unit.server.model.tiny import TinyEngine, make_adapter, tiny_model

# float32 through three layers, with another order of summation.
LOGITS_ATOL = 2e-4


def test_a_gpu_runs_triton() -> None:
    backend = choose_backend("cuda")
    assert backend.name == "triton"
    assert backend.make_static_work is not None


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom"])
def test_a_model_gives_the_same_logits_on_both_backends(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixed batch with chunks and stacks; sliding window and softcap (gemma2), ALiBi (bloom)."""
    model = tiny_model(name)
    for rank in (4, 12):
        make_adapter(copy.deepcopy(model), tmp_path / str(rank), rank=rank, seed=rank)

    def generate() -> tuple[list[list[int]], list[torch.Tensor]]:
        engine = TinyEngine(copy.deepcopy(model))
        small, large = (engine.load(tmp_path / str(rank), rank) for rank in (4, 12))
        requests: list[Any] = [
            (list(range(5, 22)), [(small, 1.0)]),
            (list(range(40, 44)), []),
            (list(range(70, 79)), [(small, 0.7), (large, -0.3)]),
        ]
        return engine.generate(requests, 3)

    tokens, logits = generate()
    backend = choose_backend("cuda")
    monkeypatch.setattr(reference, "AdapterWork", backend.make_work)
    monkeypatch.setattr(reference, "attend", backend.attend)
    triton_tokens, triton_logits = generate()
    assert triton_tokens == tokens
    for got, expected in zip(triton_logits, logits, strict=True):
        torch.testing.assert_close(got, expected, atol=LOGITS_ATOL, rtol=0)


def test_kernels_over_a_padded_static_step() -> None:
    """What a captured graph replays: the real rows as ever, the padding rows left alone."""
    rows: list[Row] = [
        (1, 9, [(0, 1.0), (5, 1.0), (1, 1.0)]),
        (1, 70, []),
        (1, 7, [(2, -0.5)]),
        (1, 2, [(2, -0.5)]),
    ]
    step = make_step(rows)
    num_blocks = int(step.block_tables.max()) + 1
    inputs = StaticDecodeInputs(
        6, max_context=1100, block_size=4, scratch_block=num_blocks, device=device()
    )
    full = make_step([(1, 3, [(page, 1.0) for page in range(5)])] * 6)
    inputs.load(full, WorkPlan.for_step(full))
    static_work = TritonAdapterWork(inputs.step, inputs.tables)
    inputs.load(step, WorkPlan.for_step(step))

    bank = make_bank({"q": (72, 100)}, num_pages=8, dtype=torch.float32)
    place = bank.layout.places[0]
    arguments = (bank.factors(place), bank.module_scales, place)
    hidden = torch.arange(6 * 72, device=device()).view(6, 72).sin()
    out, static_out = torch.ones(4, 100, device=device()), torch.ones(6, 100, device=device())
    TritonAdapterWork(step).add(out, hidden[:4], *arguments)
    static_work.add(static_out, hidden, *arguments)
    assert torch.equal(static_out[:4], out)
    assert (static_out[4:] == 1).all()

    cache = make_cache(
        kv_heads=2, key_dim=16, value_dim=16, num_blocks=num_blocks + 1, block_size=4,
        dtype=torch.float32,
    )  # fmt: skip
    queries = torch.arange(6 * 4 * 16, device=device()).view(6, 4, 16).cos()
    options = AttentionOptions(scale=0.25)
    attended = triton_attention.attend(queries[:4], cache, 0, step, options)
    static = triton_attention.attend(queries, cache, 0, inputs.step, options)
    assert torch.equal(static[:4], attended)
    assert static.isfinite().all()
