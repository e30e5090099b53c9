"""Held-out loss of a model as it is, base or adapter."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from trainer.batches.batching import group_by_length
from trainer.batches.collator import collate_rows
from trainer.data.examples import row_lengths
from trainer.data.labels import LabelledRow
from trainer.loop.loss import loss_sum
from trainer.loop.objective import Collate
from trainer.loop.processes import ALONE, Processes

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Mean negative log-likelihood in nats over all loss-bearing tokens of all rows."""

    mean: float
    num_tokens: int


def perplexity(mean_loss: float) -> float:
    """e to the loss, as far as a float goes."""
    return math.exp(min(mean_loss, 700.0))


def held_out_loss(
    model: nn.Module,
    rows: Sequence[LabelledRow],
    *,
    batch_tokens: int,
    pad_id: int,
    collate: Collate | None = None,
    processes: Processes = ALONE,
) -> HeldOutLoss:
    """Evaluate `model` on `rows` without gradients; its train or eval mode is as before after it.

    Several processes divide the work and all get the result, the same to the last bit as one
    would. A bitsandbytes model must have gone through `prepare_for_training` first: otherwise this
    forward repacks its weights and later gradients are wrong.
    """
    make = collate or (lambda batch: collate_rows(batch, pad_id))
    device = next(model.parameters()).device

    def measure(batch: Sequence[int]) -> tuple[float, int]:
        tensors = make([rows[index] for index in batch])
        summed, count = loss_sum(model, {name: t.to(device) for name, t in tensors.items()})
        return summed.item(), count

    with evaluating(model):
        batches = group_by_length(row_lengths(rows), batch_tokens)
        found = divided(measure, batches, processes)
    return HeldOutLoss(sum(loss for loss, _ in found) / sum(n for _, n in found), _total(found))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While open, `model` is in eval mode and no graph is recorded."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def divided(
    work: Callable[[Any], Found], pieces: Sequence[Any], processes: Processes
) -> list[Found]:
    """`work` of every piece in their order, each done by one process and known to all."""
    mine = [work(piece) for piece in pieces[processes.rank :: processes.count]]
    by_process = processes.gather(mine)
    return [
        by_process[index % processes.count][index // processes.count]
        for index in range(len(pieces))
    ]


def _total(found: Sequence[tuple[float, int]]) -> int:
    return sum(count for _, count in found)
