"""The experts of a base's layers: which parameters they have, and of what size."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from adapters.base.modules import expert_parameters


@dataclass(frozen=True)
class ExpertsShape:
    """The parameters of a layer's experts in the order in which PEFT wraps them, the first one
    innermost: name -> (in features, out features)."""

    num_experts: int
    parameters: dict[str, tuple[int, int]]


def experts_shapes(model: nn.Module) -> dict[str, ExpertsShape]:
    """The layers of experts of a transformers model, by module name."""
    shapes = {}
    for name, module in model.named_modules():
        found = expert_parameters(module)
        if found:
            experts: Any = module
            parameters = {}
            for parameter, (_, first, second) in found.items():
                sizes = (first, second) if experts.is_transposed else (second, first)
                parameters[parameter] = sizes
            shapes[name] = ExpertsShape(next(iter(found.values()))[0], parameters)
    return shapes
