"""A method with its settings in one line, for tables and cards."""

from trainer.config import TrainerConfig
from trainer.config.method import LORA_FAMILY


def describe_method(config: TrainerConfig) -> str:
    """For example `rank 16, alpha 32, dropout 0.05, target modules: all-linear`."""
    if config.method in LORA_FAMILY:
        lora = config.lora
        targets = lora.target_modules
        rank = f"rank {lora.r}"
        if config.method == "adalora":
            rank = f"rank {config.adalora.init_r} falling to {config.adalora.target_r} on average"
        parts = [rank, f"alpha {config.alpha:g}", f"dropout {lora.dropout:g}"]
        parts.append(
            "target modules: " + (targets if isinstance(targets, str) else ", ".join(targets))
        )
        if lora.exclude_modules:
            parts.append("without " + ", ".join(lora.exclude_modules))
        if lora.init != "default":
            parts.append(f"init {lora.init}")
        if lora.bias != "none":
            parts.append("trained biases: " + lora.bias)
        if lora.lr_ratio is not None:
            parts.append(f"LoRA+ ratio {lora.lr_ratio:g}")
        return ", ".join(parts)
    if config.method == "ia3":
        chosen = config.ia3.target_modules
        return "target modules: " + (chosen if isinstance(chosen, str) else ", ".join(chosen))
    if config.method == "full":
        return "all weights"
    return f"{config.prompt.num_virtual_tokens} virtual tokens"
