"""What a PEFT model adds to each linear of its base, whatever the method. Needs torch and PEFT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from adapters.base.modules import linear_shape
from adapters.errors import FoldError

_ROUNDING = 1e-6
"""Relative to the base's weight: a smaller change is what float32 makes of none."""


@dataclass(frozen=True)
class LinearChange:
    """A layer's outputs are the base's plus `delta_NK` times its inputs, plus `bias` [N].

    `is_transposed`: the base keeps this weight as [inputs, outputs].
    """

    module: str
    delta_NK: torch.Tensor
    bias: torch.Tensor | None
    is_transposed: bool

    def apply(self, model: Any, a_RK: torch.Tensor, b_NR: torch.Tensor) -> None:
        """Add B A, and the bias, to the base's linear."""
        linear = model.get_submodule(self.module)
        delta = b_NR @ a_RK
        linear.weight.data += delta.T if self.is_transposed else delta
        if self.bias is not None:
            before = 0.0 if linear.bias is None else linear.bias.data
            linear.bias = torch.nn.Parameter(before + self.bias, requires_grad=False)


def find_changes(peft_model: Any, linears: Mapping[str, Any], method: str) -> list[LinearChange]:
    """Of every linear that isn't left as it was; `linears` are the base's modules by name.

    Raises `FoldError` where the adapter changes something that isn't a linear.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[LinearChange] = []
    for name, module in peft_model.base_model.model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        base = linears.get(name)
        shape = linear_shape(base) if base is not None else None
        if shape is None:
            raise FoldError(
                f"the {method} adapter changes {name}, a {type(module.get_base_layer()).__name__}: "
                "only changes of linears can be folded"
            )
        change = _change(name, module, base, shape[0])
        if change is not None:
            found.append(change)
    return found


def _change(name: str, layer: Any, base: Any, num_inputs: int) -> LinearChange | None:
    """Both answer the unit vectors and zero; the difference is the change, column by column."""
    probes = torch.cat([torch.eye(num_inputs), torch.zeros(1, num_inputs)])[None]
    difference = (layer(probes) - base(probes))[0]
    bias = difference[-1]
    delta_NK = (difference[:-1] - bias).T
    weight_norm, delta_norm = float(base.weight.norm()), float(delta_NK.norm())
    has_bias = float(bias.norm()) > _ROUNDING * weight_norm
    if delta_norm <= _ROUNDING * weight_norm and not has_bias:
        return None
    is_transposed = tuple(base.weight.shape) != tuple(delta_NK.shape) or (
        type(base).__name__ == "Conv1D"
    )
    return LinearChange(name, delta_NK.contiguous(), bias if has_bias else None, is_transposed)
