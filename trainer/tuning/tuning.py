"""A base with something to train on it, and what its method wants done beside the steps."""

from pathlib import Path
from typing import Any

import torch

from trainer.config import TrainerConfig
from trainer.loop.hooks import NoHooks
from trainer.methods.adapter_files import adapter_tensors, write_adapter_files
from trainer.tuning.peft_loading import load_adapter

Tensors = dict[str, torch.Tensor]


class Tuning(NoHooks):
    """An adapter of PEFT being trained, whose parameters are trained as they are.

    `model` is what the loop trains; it owns the base. What the loop calls has `model` as an
    argument, which is never a wrapper of DDP.
    """

    def __init__(self, model: Any, config: TrainerConfig) -> None:
        self.model = model
        self.config = config

    @property
    def num_parameters(self) -> int:
        """Trainable parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the adapter as it is published: PEFT's two files, relative to the plain base."""
        write_adapter_files(adapter_tensors(self.model), self._document(), folder, dtype)

    def published(self, folder: Path) -> Any:
        """The base with the adapter of `folder` on it, loaded by PEFT, as anyone would load it.

        After it only that model may be used: `model` has given its base away.
        """
        return load_adapter(bare_base(self.model), folder)

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = self.model.peft_config["default"].to_dict()
        if isinstance(document.get("init_lora_weights"), str):
            document["init_lora_weights"] = True  # how it began is over
        document.pop("eva_config", None)
        return document


class FullTuning(Tuning):
    """All weights of an unquantised base, only to compare against: what comes out is no adapter."""

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the whole model with its weights rounded to `dtype`, and round them here too."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.to(dtype))
        # Not `model.to(dtype)`: that would round the rotary frequencies as well.
        weights = {name: tensor.to(dtype) for name, tensor in self.model.state_dict().items()}
        self.model.save_pretrained(folder, state_dict=weights)

    def published(self, folder: Path) -> Any:
        """The model itself, which `write` has rounded."""
        return self.model.eval()


def bare_base(peft_model: Any) -> Any:
    """The base without any adapter, every module its own again.

    PEFT's `unload` refuses IA3 on a 4-bit base, and leaves fully trained modules in the base.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if peft_model.peft_config["default"].is_prompt_learning:
        return peft_model.base_model
    base = peft_model.base_model.model
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            base.set_submodule(name, module.original_module)
        elif isinstance(module, BaseTunerLayer):
            base.set_submodule(name, module.get_base_layer())
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base
