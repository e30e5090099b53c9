"""Packed rows don't see each other: the same losses and gradients as row by row."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from trainer.batches.batching import plan_batches
from trainer.batches.collator import IGNORED, collate_rows, pack_rows
from trainer.batches.packed_attention import attend_row_by_row, packed_row_lengths
from trainer.batches.packing import check_packing
from trainer.data.labels import LabelledRow
from trainer.errors import MethodError
from trainer.loop.loss import loss_sum

SHAPE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ARCHITECTURES = {
    "llama": LlamaConfig(**SHAPE),
    "mistral with a window": MistralConfig(**SHAPE, sliding_window=6),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "phi3": Phi3Config(**SHAPE),
    "gemma2 with windows": Gemma2Config(**SHAPE, head_dim=8, sliding_window=6),
    "gpt2": GPT2Config(
        vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip


def model(config: Any, attention: str = "sdpa") -> Any:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()


def rows(*lengths: int) -> list[LabelledRow]:
    generator = torch.Generator().manual_seed(1)
    return [
        LabelledRow(
            tuple(torch.randint(3, 96, (length,), generator=generator).tolist()),
            tuple(i % 3 != 1 for i in range(length)),
        )
        for length in lengths
    ]


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *((name, "sdpa") for name in ARCHITECTURES if not name.startswith("gemma2")),
        *((name, "eager") for name in ("llama", "mistral with a window", "gemma2 with windows")),
    ],
)
@pytest.mark.parametrize("is_by_row", [False, True])
def test_packed_loss_and_gradient_equal_unpacked(
    name: str, attention: str, is_by_row: bool
) -> None:
    tiny = model(ARCHITECTURES[name], attention)
    if is_by_row:
        assert attend_row_by_row(tiny) == (attention == "sdpa")
    check_packing(tiny, "lora", packs_rows=True)
    data = rows(17, 5, 30, 9)
    results = []
    for batch in (pack_rows(data), collate_rows(data, 0)):
        tiny.zero_grad()
        loss, count = loss_sum(tiny, batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in tiny.parameters() if p.grad is not None])
        results.append((loss.item(), count, gradient))
    (packed, num_packed, packed_gradient), (padded, num_padded, padded_gradient) = results
    assert num_packed == num_padded
    assert packed == pytest.approx(padded, rel=1e-5)
    assert torch.allclose(
        packed_gradient, padded_gradient, atol=1e-4 * float(padded_gradient.abs().max())
    )


def test_rows_of_a_packed_sequence_are_found_by_their_positions() -> None:
    batch = pack_rows(rows(3, 1, 4))
    assert packed_row_lengths(batch["position_ids"], 8) == [3, 1, 4]
    assert packed_row_lengths(torch.arange(8)[None], 8) == [8]
    assert packed_row_lengths(None, 8) == []
    assert packed_row_lengths(torch.arange(8)[None] + 5, 8) == []  # a cache before them
    assert packed_row_lengths(torch.arange(8).repeat(2, 1), 8) == []
    assert packed_row_lengths(batch["position_ids"], 9) == []


class SeenAttention(TorchFunctionMode):
    """Notes how many queries each attention was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.lengths.append(args[0].shape[2])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "phi3", "mistral with a window"])
def test_each_row_attends_alone_unless_it_is_longer_than_a_window(name: str) -> None:
    tiny = model(ARCHITECTURES[name])
    attend_row_by_row(tiny)
    for lengths in ((5, 3, 6), (17, 5)):
        with SeenAttention() as seen:
            loss_sum(tiny, pack_rows(rows(*lengths)))
        is_too_long = "window" in name and max(lengths) > 6
        assert seen.lengths == ([sum(lengths)] if is_too_long else [*lengths]) * 2


def test_model_that_carries_state_from_row_to_row_is_refused() -> None:
    config = MambaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    tiny = MambaAsCausalModel(model(config, "eager"))
    with pytest.raises(MethodError, match="rows in one sequence see each other on a mamba"):
        check_packing(tiny, "qlora", packs_rows=True)


class MambaAsCausalModel:
    """Mamba's forward takes no position ids at all."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return self._inner(input_ids=input_ids)


def test_prompt_methods_are_refused() -> None:
    tiny = model(ARCHITECTURES["llama"])
    with pytest.raises(MethodError, match="virtual tokens"):
        check_packing(tiny, "prompt_tuning", packs_rows=False)


def test_packed_tensors() -> None:
    batch = pack_rows([LabelledRow((5, 6, 7), (True,) * 3), LabelledRow((8, 9), (True, True))])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9]]


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80), seed=st.integers(0, 9))
def test_packed_plan_has_each_row_once_within_the_budget(lengths: list[int], seed: int) -> None:
    plan = plan_batches(lengths, epochs=2, batch_tokens=64, seed=seed, packing=True)
    for start, stop in zip((0, *plan.epoch_ends), plan.epoch_ends, strict=False):
        batches = plan.batches[start:stop]
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in batch) <= 64 for batch in batches)
        # First fit leaves at most one sequence less than half full: the last of the epoch.
        assert len(batches) <= 2 * sum(lengths) / 64 + 1


def test_sequences_of_short_rows_are_nearly_full() -> None:
    lengths = [20 + (index * 37) % 200 for index in range(400)]
    plan = plan_batches(lengths, epochs=1, batch_tokens=1024, seed=0, packing=True)
    assert len(plan.batches) == math.ceil(sum(lengths) / 1024)
