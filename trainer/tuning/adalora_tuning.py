"""An AdaLoRA being trained, and the plain LoRA of the ranks that are left in the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.methods.adalora import ADALORA_SECTION
from trainer.methods.adapter_files import adapter_tensors, write_adapter_files
from trainer.tuning.plain_lora import Factors, plain_lora
from trainer.tuning.tuning import Tensors, Tuning

_ALLOCATOR = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdaloraTuning(Tuning):
    """PEFT's `AdaLoraModel` with its rank allocator (arXiv:2303.10512)."""

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """`orth_reg_weight` x the mean Frobenius distance of A A^T and B^T B from the identity.

        PEFT adds it only where the model computes the loss itself, which ours doesn't.
        """
        weight = ADALORA_SECTION.of(self.config).orth_reg_weight
        if weight == 0:
            return None
        distances = []
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
                identity = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
                distances.append(torch.linalg.norm(gram - identity))
        return weight * torch.stack(distances).mean()

    def after_optimizer_step(self, model: nn.Module, step: int) -> None:
        """Let the allocator see the gradients, and move ranks when it is time."""
        self.model.base_model.update_and_allocate(step)

    def state(self) -> Mapping[str, Any]:
        """The allocator's averages, and the masks of the ranks that are gone."""
        allocator = self.model.base_model.rankallocator
        averages = {
            kind: {n: t.detach().cpu().clone() for n, t in getattr(allocator, kind).items()}
            for kind in _ALLOCATOR
        }
        return {"averages": averages, "masks": self._peft_config.rank_pattern or {}}

    def restore(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        allocator = self.model.base_model.rankallocator
        device = next(self.model.parameters()).device
        for kind, averages in state["averages"].items():
            setattr(allocator, kind, {name: t.to(device) for name, t in averages.items()})
        self._peft_config.rank_pattern = dict(state["masks"]) or None

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Write B diag(E) A as a LoRA: modules keep the ranks that they have left, or drop out."""
        from peft.tuners.adalora import AdaLoraLayer

        updates: dict[str, Factors] = {}
        is_complete = True
        for name, layer in self.model.named_modules():
            if not isinstance(layer, AdaLoraLayer):
                continue
            values = layer.lora_E["default"].detach().flatten()
            # PEFT divides by ranknum + 1e-5, ranknum being init_r for good.
            scale = layer.scaling["default"] / (layer.ranknum["default"].item() + 1e-5)
            kept = values != 0
            if not kept.any():
                is_complete = False
                continue
            a = layer.lora_A["default"].detach()[kept]
            b = layer.lora_B["default"].detach()[:, kept] * (values[kept] * scale)
            updates[name.removeprefix("base_model.model.")] = _balanced(a, b)
        if not updates:
            # Nothing was learned; a LoRA with no module isn't one.
            updates, is_complete = self._empty(), True
        tensors, document = plain_lora(
            updates, self._document(), self._others(), is_complete=is_complete
        )
        write_adapter_files(tensors, document, folder, dtype)

    @property
    def _peft_config(self) -> Any:
        return self.model.peft_config["default"]

    def _others(self) -> Tensors:
        masks, self._peft_config.rank_pattern = self._peft_config.rank_pattern, None
        tensors = adapter_tensors(self.model)
        self._peft_config.rank_pattern = masks
        return {name: t for name, t in tensors.items() if ".lora_" not in name}

    def _empty(self) -> dict[str, Factors]:
        from peft.tuners.adalora import AdaLoraLayer

        return {
            name.removeprefix("base_model.model."): (
                layer.lora_A["default"].detach()[:1],
                layer.lora_B["default"].detach()[:, :1] * 0,
            )
            for name, layer in self.model.named_modules()
            if isinstance(layer, AdaLoraLayer)
        }


def _balanced(a: torch.Tensor, b: torch.Tensor) -> Factors:
    """The same product with rows of A and columns of B of equal length."""
    ratio = (b.norm(dim=0) / a.norm(dim=1)).sqrt()
    return a * ratio[:, None], b / ratio
