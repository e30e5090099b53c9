"""Training rows through a model, to see what its modules are given."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from trainer.batches.collator import collate_rows
from trainer.data.labels import LabelledRow
from trainer.errors import MethodError
from trainer.loop.held_out_loss import evaluating

CALIBRATION_ROWS = 64
"""Rows that an initialisation looks at."""


def calibration_rows(init: str, rows: Sequence[LabelledRow]) -> Sequence[LabelledRow]:
    """The first of the training rows. Raises `MethodError` when there are none for `init`."""
    if not rows:
        raise MethodError(f"lora.init: {init} looks at the training rows, and there are none")
    return rows[:CALIBRATION_ROWS]


def run_rows(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    rows: Sequence[LabelledRow],
    see: Callable[[str, torch.Tensor], None],
) -> None:
    """Tell `see` each layer's name and its input (tokens, in), float32, one row after the other."""

    def hook(name: str, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        see(name, args[0].detach().reshape(-1, args[0].shape[-1]).float())

    handles: list[Any] = [
        layer.register_forward_pre_hook(partial(hook, name)) for name, layer in layers.items()
    ]
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            for row in rows:  # one by one: padding would count as text
                batch = collate_rows([row], pad_id=0)
                model(input_ids=batch["input_ids"].to(device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
