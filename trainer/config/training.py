"""The loop: steps, learning rate, memory, checkpoints, logs."""

from typing import Literal

from pydantic import Field

from trainer.config import defaults
from trainer.config.section import Section


class EarlyStoppingSection(Section):
    """Ends the run when held-out loss stops falling."""

    patience: int | None = Field(
        default=None, ge=1, description="end after so many evaluations without progress"
    )
    min_delta: float = Field(
        default=0.0, ge=0, description="how much lower the loss must be to count as progress"
    )


class CheckpointSection(Section):
    """What `trainer resume` needs, written while training."""

    every: int | None = Field(
        default=None, ge=0, description="steps between checkpoints, 0 for none; default each eval"
    )
    keep: int = Field(default=2, ge=1, description="how many of the newest stay on disk")


class LoggingSection(Section):
    """Where the curve of a run can be watched."""

    to: Literal["tensorboard", "wandb", "mlflow", "none"] = Field(
        default="tensorboard", description="tensorboard (a file), wandb, mlflow, or none"
    )
    project: str = Field(default="switchyard", description="wandb project or mlflow experiment")
    run_name: str | None = Field(
        default=None, description="what the run is called there; default the adapter's name"
    )


class TrainingSection(Section):
    """The loop. What is null is chosen from the amount of data, and said."""

    epochs: int | None = Field(
        default=None, ge=1, description="passes over the data; default by its size"
    )
    max_steps: int | None = Field(default=None, ge=1, description="end after so many steps")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="peak of the schedule; default by method (lora family 2e-4)",
    )
    schedule: Literal[
        "cosine",
        "linear",
        "constant",
        "constant_with_warmup",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = Field(default=defaults.SCHEDULE, description="how the learning rate falls after its peak")
    warmup_share: float = Field(
        default=defaults.WARMUP_SHARE, ge=0, lt=1, description="share of steps in which it rises"
    )
    weight_decay: float = Field(
        default=defaults.WEIGHT_DECAY, ge=0, description="AdamW's decoupled weight decay"
    )
    max_grad_norm: float = Field(
        default=defaults.MAX_GRAD_NORM, gt=0, description="larger gradients are scaled down to it"
    )
    batch_tokens: int | None = Field(
        default=None, ge=8, description="tokens of one forward, padding included"
    )
    gradient_accumulation: int = Field(default=1, ge=1, description="forwards per optimiser step")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, about a third slower"
    )
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = Field(
        default="auto", description="auto is adamw on a CPU, paged_adamw_8bit on CUDA"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        default="auto", description="attention kernel; auto takes flash attention where it runs"
    )
    neftune_alpha: float | None = Field(
        default=None, gt=0, description="noise on the input embeddings (arXiv:2310.05914), e.g. 5"
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of activations and unquantised weights; auto by device"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto is CUDA where there is one"
    )
    early_stopping: EarlyStoppingSection = Field(
        default=EarlyStoppingSection(), description="ends the run when held-out loss stops falling"
    )
    checkpoints: CheckpointSection = Field(
        default=CheckpointSection(), description="what `trainer resume` needs"
    )
    logging: LoggingSection = Field(
        default=LoggingSection(), description="where the curve of a run can be watched"
    )
