"""Full fine-tuning: all weights of an unquantised base, only to compare against."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.methods.lora_memory import OUTPUT_PROJECTIONS
from trainer.methods.method import TrainingForward, TrainingMethod
from trainer.methods.targets import BaseGeometry, Shape

if TYPE_CHECKING:
    from torch import nn

    from trainer.config import TrainerConfig
    from trainer.methods.model_shape import ModelShape
    from trainer.tuning.attachment import RunStart
    from trainer.tuning.tuning import Tuning


class Full(TrainingMethod):
    """What comes out is another base, not an adapter."""

    name = "full"
    # All weights want a tenth of what an adapter wants.
    learning_rate = 2e-5
    quantizes_base = False
    trains_base = True
    publishes_adapter = False

    def contradictions(self, document: Mapping[str, Any]) -> list[str]:
        if "quantization" not in document:
            return []
        return ["method full trains the base's own weights: quantization can't be given"]

    def describe(self, config: "TrainerConfig") -> str:
        return "all weights"

    def match_modules(
        self, config: "TrainerConfig", modules: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        return dict(modules)

    def count_parameters(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], geometry: BaseGeometry
    ) -> int:
        """The linears' weights alone."""
        return sum(inputs * outputs for inputs, outputs in matched.values())

    def count_in_model(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], model: "nn.Module"
    ) -> int:
        return sum(int(parameter.numel()) for parameter in model.parameters())

    def count_in_shape(self, config: "TrainerConfig", shape: "ModelShape") -> int:
        return shape.num_parameters

    def attach(self, start: "RunStart") -> "Tuning":
        from trainer.tuning.tuning import FullTuning

        start.base.model.requires_grad_(True)
        return FullTuning(start.base.model, start.config)

    def kept_bytes(self, config: "TrainerConfig", forward: TrainingForward) -> int:
        """Under autocast: each linear's input in bfloat16, attention's output being one already;
        what each norm multiplies in float32; the bfloat16 copies of the weights, the head's too.
        """
        shape = forward.shape
        inputs = sum(
            2 * inputs
            for name, (inputs, _) in shape.linears.items()
            if not name.endswith(OUTPUT_PROJECTIONS)
        )
        hidden = shape.geometry.hidden
        # With the one before the head; of a frozen base the first keeps nothing, so that makes up.
        norms = 2 * 4 * hidden * shape.geometry.num_layers + 2 * 4 * hidden
        copies = 2 * (shape.linear_parameters + shape.rows * hidden)
        return forward.tokens * (inputs + norms) + copies
