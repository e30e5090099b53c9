"""What transformers' `Trainer` is told, from the config and the plan."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from adapters.base.loading import default_compute_dtype
from trainer.config import TrainerConfig, defaults
from trainer.errors import ConfigError
from trainer.loop.plan import TrainingPlan

_OWN_ARGUMENTS = frozenset(
    {
        "output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed",
        "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps",
        "weight_decay", "max_grad_norm", "gradient_checkpointing", "use_cpu",
        "remove_unused_columns", "logging_steps", "logging_nan_inf_filter", "eval_strategy",
        "save_strategy", "neftune_noise_alpha", "report_to", "disable_tqdm",
        "restore_callback_states_from_checkpoint", "ignore_data_skip",
        "average_tokens_across_devices",
    }
)  # fmt: skip


def training_arguments(config: TrainerConfig, plan: TrainingPlan, folder: Path) -> Any:
    """`TrainingArguments` for one pass over the plan's batches (all epochs are in the plan).

    Raises `ConfigError` for a key of `trainer_args` that has its own place in the config, or that
    transformers refuses.
    """
    training = config.training
    taken = sorted(_OWN_ARGUMENTS & config.trainer_args.keys())
    if taken:
        raise ConfigError([f"trainer_args.{key}: set by the other sections" for key in taken])
    device = resolve_device(training.device)
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": plan.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": training.schedule,
        "lr_scheduler_kwargs": scheduler_options(training.schedule, plan.num_steps),
        "warmup_steps": plan.warmup_steps,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "gradient_checkpointing": training.gradient_checkpointing,
        "optim": choose_optimizer(training.optimizer, device),
        "seed": config.seed,
        "use_cpu": device == "cpu",
        # Weights that are trained in full stay in float32; their products needn't.
        "bf16": config.training_method.trains_base
        and _computes_in_bfloat16(training.compute_dtype, device),
        "dataloader_pin_memory": device != "cpu",
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        # Every trainable tensor takes part in every step; trainer_args can say otherwise.
        "ddp_find_unused_parameters": False,
        "neftune_noise_alpha": training.neftune_alpha,
    }
    try:
        return TrainingArguments(**(arguments | config.trainer_args))
    except (TypeError, ValueError) as error:
        raise ConfigError([f"trainer_args: transformers refuses them: {error}"]) from error


def _computes_in_bfloat16(wanted: str, device: str) -> bool:
    return wanted == "bfloat16" or (
        wanted == "auto" and default_compute_dtype(device) == torch.bfloat16
    )


def scheduler_options(schedule: str, num_steps: int) -> dict[str, Any]:
    """What some of transformers' schedules need beside the number of steps."""
    if schedule == "warmup_stable_decay":
        return {"num_decay_steps": max(1, round(defaults.DECAY_SHARE * num_steps))}
    if schedule in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        return {"min_lr_rate": defaults.MIN_LEARNING_RATE_SHARE}
    return {}


def resolve_device(wanted: str) -> str:
    """`auto` is CUDA when torch sees one. Raises `ConfigError` for CUDA where there is none."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(["training.device: cuda, but torch sees no CUDA device; use auto or cpu"])
    return wanted


def choose_optimizer(wanted: str, device: str) -> str:
    """AdamW; on CUDA its paged 8-bit form, which on a CPU has no kernels and is refused."""
    if wanted == "paged_adamw_8bit" and device != "cuda":
        raise ConfigError(
            ["training.optimizer: paged_adamw_8bit pages GPU memory; on a CPU use adamw or auto"]
        )
    if wanted == "paged_adamw_8bit" or (wanted == "auto" and device == "cuda"):
        return "paged_adamw_8bit"
    return "adamw_torch"


def choose_attention(
    wanted: str, device: str, dtype: torch.dtype, *, has_flash: bool
) -> str | None:
    """Flash attention on CUDA where the package is there, else None: what the base takes.

    Raises `ConfigError` where flash attention is asked for and can't run.
    """
    runs = device == "cuda" and dtype != torch.float32
    if wanted == "flash_attention_2" and not (runs and has_flash):
        reason = (
            "the package flash-attn isn't installed"
            if runs
            else f"it runs on CUDA in 16 bits, and this is {device} in {dtype}".replace(
                "torch.", ""
            )
        )
        raise ConfigError([f"training.attention: flash_attention_2, but {reason}; use auto"])
    if wanted == "auto":
        return "flash_attention_2" if runs and has_flash else None
    return wanted
