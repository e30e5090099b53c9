"""PiSSA and OLoRA: trained beside a frozen starting point, published as the difference."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.methods.adapter_files import adapter_tensors, write_adapter_files
from trainer.tuning.lora_tuning import LoraTuning
from trainer.tuning.plain_lora import Factors, plain_lora
from trainer.tuning.starting_point import START, difference_factors


class StartedTuning(LoraTuning):
    """The frozen adapter `start` is part of the state: another SVD might round otherwise."""

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Write a plain LoRA of twice the rank that does what both adapters do together."""
        from peft.tuners.lora import LoraLayer

        updates: dict[str, Factors] = {}
        for name, layer in self.model.named_modules():
            if isinstance(layer, LoraLayer):
                with torch.no_grad():
                    updates[name.removeprefix("base_model.model.")] = difference_factors(
                        layer.lora_A["default"].weight,
                        layer.lora_B["default"].weight,
                        layer.lora_A[START].weight,
                        -layer.lora_B[START].weight,
                        layer.scaling["default"],
                    )
        others = {n: t for n, t in adapter_tensors(self.model).items() if ".lora_" not in n}
        tensors, document = plain_lora(updates, self._document(), others, is_complete=True)
        write_adapter_files(tensors, document, folder, dtype)

    def state(self) -> Mapping[str, Any]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self._frozen().items()}

    def restore(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, tensor in self._frozen().items():
                tensor.copy_(state[name])

    def _frozen(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if f".{START}." in n}
