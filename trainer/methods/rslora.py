"""rsLoRA (arXiv:2312.03732): the update is scaled by alpha/sqrt(r), so large ranks learn too."""

from trainer.methods.lora_family import LoraMethod


class Rslora(LoraMethod):
    """LoRA with another scale."""

    name = "rslora"
    always_rslora = True
