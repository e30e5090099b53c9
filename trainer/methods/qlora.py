"""QLoRA (arXiv:2305.14314): LoRA on a base held in 4 bits."""

from collections.abc import Mapping
from typing import Any

from trainer.config.written import written_value
from trainer.methods.lora_family import LoraMethod


class Qlora(LoraMethod):
    """A and B over what a server holds too."""

    name = "qlora"

    def contradictions(self, document: Mapping[str, Any]) -> list[str]:
        problems = []
        if written_value(document, "quantization", "scheme") == "none":
            problems.append(
                "quantization.scheme: none makes method qlora plain lora; write method: lora"
            )
        return problems + super().contradictions(document)
