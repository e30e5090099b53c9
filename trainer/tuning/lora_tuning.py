"""A LoRA being trained: its B may learn faster than its A."""

from typing import Any

import torch
from torch import nn

from trainer.methods.lora_family import LORA_SECTION
from trainer.tuning.tuning import Tuning


class LoraTuning(Tuning):
    """LoRA and its variants, `lora.lr_ratio` included."""

    def parameter_groups(
        self, model: nn.Module, learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]] | None:
        """The optimiser's parameter groups where they aren't the usual ones, else None.

        LoRA+ (arXiv:2402.12354) lets B learn faster than A. The grouping is PEFT's own, taken from
        an optimiser that is thrown away.
        """
        ratio = LORA_SECTION.of(self.config).lr_ratio
        if ratio is None:
            return None
        from peft.optimizers import create_loraplus_optimizer

        optimizer = create_loraplus_optimizer(
            model,
            torch.optim.SGD,
            lr=learning_rate,
            loraplus_lr_ratio=ratio,
            loraplus_weight_decay=weight_decay,
        )
        return [
            {key: group[key] for key in ("params", "lr", "weight_decay")}
            for group in optimizer.param_groups
            if group["params"]
        ]
