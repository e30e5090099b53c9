"""The base's own biases, trained beside a LoRA: `lora.bias`.

They are parameters of the base: what gives a base back after training has to put them back too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from trainer.config import TrainerConfig
from trainer.errors import MethodError
from trainer.methods.lora_family import LORA_SECTION
from trainer.methods.targets import Shape


def trained_biases(
    model: nn.Module, config: TrainerConfig, matched: Mapping[str, Shape]
) -> dict[str, nn.Parameter]:
    """The biases that `lora.bias` trains on the plain base `model`; `matched` are the targets.

    Raises `MethodError` where there are none, or where they would be trained in 16 bits.
    """
    trained = LORA_SECTION.of(config).bias  # none for methods without that section
    if trained == "none":
        return {}
    wanted = {
        name: parameter
        for name, parameter in _biases(model).items()
        if trained == "all" or name.removesuffix(".bias") in matched
    }
    if not wanted:
        where = "the targets" if trained == "lora_only" else "any module"
        raise MethodError(
            f"lora.bias: {trained}, but {config.base} has no bias in {where}; use none"
        )
    if any(parameter.dtype != torch.float32 for parameter in wanted.values()):
        raise MethodError(
            f"lora.bias: {trained} trains biases where they are, and {config.base} holds "
            "them in 16 bits, in which small updates are lost; set training.compute_dtype to "
            "float32, or lora.bias to none"
        )
    return wanted


@contextmanager
def biases_put_back(model: nn.Module) -> Iterator[None]:
    """Gives the biases of the plain base `model` the values that they have now, at the end."""
    before = {name: bias.detach().clone() for name, bias in _biases(model).items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, bias in _biases(model).items():
                bias.copy_(before[name])


def _biases(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias"}
