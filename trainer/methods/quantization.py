"""How the base is held under a method."""

from adapters.base.quantization import UNQUANTIZED, QuantizationSpec
from trainer.config import TrainerConfig


def quantization_for(config: TrainerConfig) -> QuantizationSpec:
    """The base's format: unquantised for lora and full, the `quantization` section otherwise."""
    section = config.quantization
    if config.method in ("lora", "full") or section.scheme == "none":
        return UNQUANTIZED
    return QuantizationSpec(scheme=section.scheme, double_quant=section.double_quant)
