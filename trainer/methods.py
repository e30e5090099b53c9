"""Fine-tuning methods: what each makes of the base, through PEFT's own config classes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.base.quantization import UNQUANTIZED, QuantizationSpec
from trainer.config import TrainerConfig
from trainer.errors import MethodError


def quantization_for(config: TrainerConfig) -> QuantizationSpec:
    """How the base is held under this method."""
    if config.method == "lora":
        return UNQUANTIZED
    section = config.quantization
    return QuantizationSpec(scheme=section.scheme, double_quant=section.double_quant)


def match_modules(
    config: TrainerConfig, modules: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """The linear modules that the adapter will change, with (in_features, out_features).

    Raises `MethodError` naming every target that matches nothing, and what there is.
    """
    targets = config.lora.target_modules
    if targets == "all-linear":
        return dict(modules)
    unmatched = [t for t in targets if not any(_matches(name, t) for name in modules)]
    if unmatched:
        known = sorted({name.rsplit(".", 1)[-1] for name in modules})
        raise MethodError(
            f"lora.target_modules: {', '.join(unmatched)} match no linear layer of "
            f"{config.base}; it has {', '.join(known)}"
        )
    return {n: shape for n, shape in modules.items() if any(_matches(n, t) for t in targets)}


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def count_parameters(config: TrainerConfig, modules: Mapping[str, tuple[int, int]]) -> int:
    """Trainable parameters: rank x (inputs + outputs) for each module."""
    return sum(config.lora.r * (inputs + outputs) for inputs, outputs in modules.values())


def attach_adapter(model: nn.Module, config: TrainerConfig) -> Any:
    """Wrap `model` as a `PeftModel` with a fresh adapter in float32, drawn from `config.seed`.

    The fresh adapter changes nothing: B is zero. `model` itself is changed in place.
    """
    import_bitsandbytes()  # PEFT imports it too; this way it asks no hub for kernels
    from peft import LoraConfig, get_peft_model

    lora = config.lora
    targets = lora.target_modules
    peft_config = LoraConfig(
        r=lora.r,
        lora_alpha=_integer_if_whole(config.alpha),
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else sorted(targets),
        init_lora_weights=True if lora.init == "default" else lora.init,
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(config.seed)
    peft_model = get_peft_model(model, peft_config)
    peft_model.peft_config["default"].base_model_name_or_path = config.base
    return peft_model


def _integer_if_whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
