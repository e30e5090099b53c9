"""LoRA (arXiv:2106.09685) on the unquantised base."""

from collections.abc import Mapping
from typing import Any

from trainer.methods.lora_family import LoraMethod


class Lora(LoraMethod):
    """A and B beside weights that are held as they are stored."""

    name = "lora"
    quantizes_base = False

    def contradictions(self, document: Mapping[str, Any]) -> list[str]:
        problems = []
        if "quantization" in document:
            problems.append(
                "method lora trains on the unquantised base, so quantization has no effect; "
                "remove it, or use method qlora"
            )
        return problems + super().contradictions(document)
