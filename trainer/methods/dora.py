"""DoRA (arXiv:2402.09353): magnitudes of the weights are trained apart from their directions."""

from trainer.methods.lora_family import LoraMethod


class Dora(LoraMethod):
    """LoRA for the directions, and a vector of magnitudes for each linear."""

    name = "dora"
    always_dora = True
