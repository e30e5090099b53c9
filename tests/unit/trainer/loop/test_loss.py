"""The loss over loss-bearing positions equals the model's own, and so do its gradients."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from trainer.batches.collator import IGNORED, collate_rows, pad_token_id
from trainer.data.labels import LabelledRow
from trainer.loop.held_out_loss import held_out_loss, perplexity
from trainer.loop.loss import loss_sum

ROWS = (
    LabelledRow((1, 2, 30, 40, 50, 3), (False, False, False, True, True, True)),
    LabelledRow((1, 2, 60, 3), (False, False, True, True)),
    LabelledRow((1, 9, 8, 7, 6, 5, 4, 3), (False, False, True, True, False, False, True, True)),
)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_base)


def reference_sum(model: Any, row: LabelledRow) -> torch.Tensor:
    """Row by row, full logits, no padding."""
    ids = torch.tensor([row.token_ids])
    logits = model(input_ids=ids).logits[0, :-1]
    labels = torch.tensor([i if m else IGNORED for i, m in zip(*_fields(row), strict=True)])[1:]
    return functional.cross_entropy(logits, labels, reduction="sum")


def _fields(row: LabelledRow) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    return row.token_ids, row.carries_loss


def test_collation_pads_right_and_masks_labels() -> None:
    batch = collate_rows(ROWS[:2], pad_id=0)
    assert batch["input_ids"].tolist()[1] == [1, 2, 60, 3, 0, 0]
    assert batch["labels"].tolist()[1] == [IGNORED, IGNORED, 60, 3, IGNORED, IGNORED]
    assert batch["attention_mask"].tolist()[1] == [1, 1, 1, 1, 0, 0]


def test_padded_batch_equals_rows_alone(model: Any) -> None:
    summed, count = loss_sum(model, collate_rows(ROWS, pad_id=0))
    assert count == sum(row.num_loss_tokens for row in ROWS)
    torch.testing.assert_close(summed, sum(reference_sum(model, row) for row in ROWS))


def test_gradients_equal_those_of_full_logits(model: Any) -> None:
    weight = model.model.layers[0].mlp.down_proj.weight
    gradients = []
    for total in (
        loss_sum(model, collate_rows(ROWS, pad_id=0))[0],
        sum(reference_sum(model, row) for row in ROWS),
    ):
        gradients.append(torch.autograd.grad(total, weight)[0])
    torch.testing.assert_close(*gradients)


def test_capped_logits_stay_capped() -> None:
    config = Gemma2Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.05,
    )
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    summed, _ = loss_sum(model, collate_rows(ROWS, pad_id=0))
    torch.testing.assert_close(summed, sum(reference_sum(model, row) for row in ROWS))
    assert abs(summed.item() / 9 - math.log(320)) < 0.1  # capped logits are nearly uniform


def test_the_hook_is_gone_afterwards(model: Any) -> None:
    loss_sum(model, collate_rows(ROWS, pad_id=0))
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 320)


def test_held_out_loss_is_a_mean_over_tokens_whatever_the_batches(model: Any) -> None:
    model.train()
    one, many = (held_out_loss(model, ROWS, batch_tokens=size, pad_id=0) for size in (8, 1000))
    assert model.training
    model.eval()
    assert one.num_tokens == many.num_tokens == sum(row.num_loss_tokens for row in ROWS)
    assert one.mean == pytest.approx(many.mean, rel=1e-5)
    assert perplexity(one.mean) == pytest.approx(math.exp(one.mean))
    assert math.isfinite(perplexity(1e9))


def test_pad_token_falls_back(tokenizer: Any) -> None:
    assert pad_token_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|pad|>")
    assert pad_token_id(object()) == 0
