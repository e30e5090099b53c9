"""What a step minimises: one protocol for the loop, and the plain objective of fine-tuning."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from trainer.batches.collator import IGNORED, Batch
from trainer.data.labels import LabelledRow
from trainer.loop.loss import loss_sum

Collate = Callable[[Sequence[LabelledRow]], Batch]
"""Rows to the tensors of one forward. Every tensor but `labels` is handed to the model."""


class Objective(Protocol):
    """The loss of a step is a sum of parts, one for each of its forwards on each process.

    So that the parts add up to the loss of one large batch, each is normalised by what the whole
    step holds: `counts` says what one forward adds to that, `loss` receives the totals.
    """

    def collate(self, rows: Sequence[Any]) -> Batch:
        """The tensors of one forward."""
        ...

    def without_weight(self, batch: Batch) -> Batch:
        """`batch` with nothing to learn in it, for a process that has no batch left in a step."""
        ...

    def counts(self, batch: Batch) -> torch.Tensor:
        """(normalisers,) float64 on the CPU; nothing is to be learned where the first is 0."""
        ...

    def loss(self, model: nn.Module, batch: Batch, totals: torch.Tensor) -> torch.Tensor:
        """This forward's part of the step's loss, with graph."""
        ...


class SupervisedObjective:
    """Mean negative log-likelihood of all loss-bearing tokens of a step."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def collate(self, rows: Sequence[LabelledRow]) -> Batch:
        return self._collate(rows)

    def without_weight(self, batch: Batch) -> Batch:
        return {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}

    def counts(self, batch: Batch) -> torch.Tensor:
        labels = batch["labels"][:, 1:]
        return (labels != IGNORED).sum(dtype=torch.float64).reshape(1)

    def loss(self, model: nn.Module, batch: Batch, totals: torch.Tensor) -> torch.Tensor:
        summed, _ = loss_sum(model, batch)
        return summed / totals[0].to(summed)
