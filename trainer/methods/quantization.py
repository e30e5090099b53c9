"""How the base is held under a method."""

from adapters.base.quantization import UNQUANTIZED, QuantizationSpec
from trainer.config import TrainerConfig


def quantization_for(config: TrainerConfig) -> QuantizationSpec:
    """The base's format: the section `quantization`, unless the method wants the stored weights."""
    section = config.quantization
    if not config.training_method.quantizes_base or section.scheme == "none":
        return UNQUANTIZED
    return QuantizationSpec(scheme=section.scheme, double_quant=section.double_quant)
