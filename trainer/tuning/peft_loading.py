"""Adapters loaded by PEFT onto a base as it is held here."""

from pathlib import Path
from typing import Any

import torch
from torch import nn


def load_adapter(model: nn.Module, folder: Path) -> Any:
    """`model` with the adapter of `folder` on it, as anyone would load it, in eval mode."""
    from peft import PeftModel

    peft_model = PeftModel.from_pretrained(model, str(folder)).eval()
    keep_dtypes(peft_model)
    return peft_model


def keep_dtypes(peft_model: nn.Module) -> None:
    """Let IA3 layers answer in the dtype that they were asked in.

    PEFT's (0.21) over a 4-bit linear answer in float32 outside autocast, and attention refuses
    keys in float32 beside queries in bfloat16.
    """
    from peft.tuners.ia3 import IA3Layer

    for module in peft_model.modules():
        if isinstance(module, IA3Layer):
            module.register_forward_hook(_as_asked)


def _as_asked(
    _module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
) -> torch.Tensor:
    return output.to(args[0].dtype)
