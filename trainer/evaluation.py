"""Held-out loss of a model as it is, base or adapter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainer.batching import group_by_length
from trainer.collator import collate_rows
from trainer.labels import LabelledRow
from trainer.loss import loss_sum


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Mean negative log-likelihood in nats over all loss-bearing tokens of all rows."""

    mean: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.mean, 700.0))


def held_out_loss(
    model: nn.Module, rows: Sequence[LabelledRow], *, batch_tokens: int, pad_id: int
) -> HeldOutLoss:
    """Evaluate `model` on `rows` without gradients; its train or eval mode is as before after it.

    A bitsandbytes model must have gone through `prepare_for_training` first: otherwise this
    forward repacks its weights and later gradients are wrong.
    """
    was_training = model.training
    device = next(model.parameters()).device
    total, num_tokens = 0.0, 0
    model.eval()
    try:
        with torch.no_grad():
            for batch in group_by_length([len(row) for row in rows], batch_tokens):
                tensors = collate_rows([rows[index] for index in batch], pad_id)
                tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
                summed, count = loss_sum(model, tensors)
                total += summed.item()
                num_tokens += count
    finally:
        model.train(was_training)
    return HeldOutLoss(total / num_tokens, num_tokens)
