"""The Triton backend as a whole: chosen for a GPU, and a model that runs on it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from server.model.kernels import reference
from server.model.kernels.backends import choose_backend
from tests.unit.model.tiny import TinyEngine, make_adapter, tiny_model

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
