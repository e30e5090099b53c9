"""Where a fine-tuning method takes part in the loop."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn


class MethodHooks(Protocol):
    """What a method does while training; `NoHooks` for the many that only add parameters.

    `model` is the `PeftModel` (or the plain model of full fine-tuning), never a wrapper of DDP.
    All of it happens on every process alike.
    """

    def parameter_groups(
        self, model: nn.Module, learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]] | None:
        """The optimiser's parameter groups (LoRA+), each with `params`; None for the usual ones."""
        ...

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """A scalar added once to the loss of each step, with graph (AdaLoRA's orthogonality)."""
        ...

    def after_optimizer_step(self, model: nn.Module, step: int) -> None:
        """After the optimiser's step number `step` (the first is 1); gradients are still there."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint must keep beside trainable weights: tensors, numbers, dicts of them."""
        ...

    def restore(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's `state`; the trainable weights are in `model` already."""
        ...


class NoHooks:
    """A method whose parameters are trained as they are."""

    def parameter_groups(
        self, model: nn.Module, learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]] | None:
        return None

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        return None

    def after_optimizer_step(self, model: nn.Module, step: int) -> None:
        """Nothing to do."""

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Nothing was kept."""
