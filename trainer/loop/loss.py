"""Next-token loss, with the output head computed only where a label is.

The head of a small model is a good part of its work (SmolLM2-135M: 28 of 135 million weights), and
half of the positions of chat data carry no loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trainer.batches.collator import IGNORED, Batch


def loss_sum(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy (float32, with graph) over the labels of `batch`, and their number.

    `model` may be wrapped (PEFT, DDP). Its own scaling or capping of logits stays in effect.
    """
    labels = batch["labels"][:, 1:]
    wanted = labels != IGNORED
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with _head_only_at(output_head(model), wanted):
        logits = model(**inputs, use_cache=False).logits
    targets = labels[wanted]
    return functional.cross_entropy(logits.float(), targets, reduction="sum"), int(targets.numel())


def answer_log_probs(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row: the summed log-probability of its labels (float32, with graph), their number."""
    labels = batch["labels"][:, 1:]
    wanted = labels != IGNORED
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with _head_only_at(output_head(model), wanted):
        logits = model(**inputs, use_cache=False).logits
    found = -functional.cross_entropy(logits.float(), labels[wanted], reduction="none")
    rows = wanted.nonzero()[:, 0]
    summed = torch.zeros(len(labels), device=found.device).index_add(0, rows, found)
    return summed, wanted.sum(1)


def output_head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits."""
    unwrapped: Any = getattr(model, "module", model)
    head = unwrapped.get_output_embeddings()
    assert isinstance(head, nn.Module), f"{type(unwrapped).__name__} has no output head"
    return head


@contextmanager
def _head_only_at(head: nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """While open, `head` sees only the hidden states that predict a `wanted` label.

    `wanted` is (rows, tokens - 1): position t decides about token t + 1. Virtual tokens that a
    prompt method puts in front are skipped. The head's output is then (wanted labels, words).
    """

    def select(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = args[0][:, -(wanted.shape[1] + 1) : -1]
        return (hidden[wanted],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
