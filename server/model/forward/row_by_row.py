"""Layers that keep a state, in a step over many sequences: each row runs through them alone.

The rest of the model computes all rows together. Within such a layer a row has its own cache, its
own adapter work and its own place in the paged cache, so that what it gets doesn't depend on the
rows beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from server.model.forward.step_context import StepContext

_SLICED = {"hidden_states": 1, "position_ids": -1, "position_embeddings": -2}
"""The axis of the tokens in what layers are called with."""


class UnslicedInputError(Exception):
    """A layer takes something of which it isn't known how it divides by rows."""


@dataclass
class RowScope:
    """What one row's pass through a layer sees instead of the step's own. Axes as `StepInputs`."""

    tokens: slice
    cache: Any
    enter: Callable[[], None]


class RowByRow:
    """Stands in for the `forward` of a layer that keeps a state."""

    def __init__(self, module: nn.Module, context: StepContext) -> None:
        self._module: Any = module
        self._forward = module.forward
        self._context = context

    def install(self) -> None:
        """From here on the layer is called once a row."""
        self._module.forward = self

    def remove(self) -> None:
        """The layer is called as it was before `install`."""
        self._module.forward = self._forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own forward, over [1, T, hidden]."""
        scopes = self._context.scopes
        if scopes is None:
            return self._forward(*args, **kwargs)
        outputs = []
        try:
            for scope in scopes:
                scope.enter()
                outputs.append(
                    self._forward(
                        *(self._of_row(None if i else "hidden_states", a, scope)
                          for i, a in enumerate(args)),
                        **{name: self._of_row(name, a, scope) for name, a in kwargs.items()},
                    )
                )  # fmt: skip
        finally:
            self._context.leave_row()
        return _joined(outputs)

    def _of_row(self, name: str | None, value: Any, scope: RowScope) -> Any:
        if value is self._context.step_cache:
            return scope.cache
        if isinstance(value, tuple):
            return tuple(self._of_row(name, part, scope) for part in value)
        if not isinstance(value, torch.Tensor):
            return value
        if name not in _SLICED:
            raise UnslicedInputError(f"{name or 'an argument'} of shape {list(value.shape)}")
        axis = _SLICED[name] % value.dim()
        return value.narrow(axis, scope.tokens.start, scope.tokens.stop - scope.tokens.start)


def _joined(outputs: Sequence[Any]) -> Any:
    """The rows' outputs as one: tensors along the tokens, whatever else from the first."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(outputs), dim=1)
    if isinstance(first, tuple):
        return tuple(
            torch.cat([o[i] for o in outputs], dim=1) if i == 0 else part
            for i, part in enumerate(first)
        )
    raise UnslicedInputError(f"an output of type {type(first).__name__}")
