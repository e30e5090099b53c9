"""The YAML of a training run, as frozen sections. `trainer.config_loading` reads it."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters.errors import AdapterError
from adapters.names import parse_ref
from trainer import defaults
from trainer.errors import ConfigError
from trainer.gate import parse_gate

Method = Literal[
    "lora", "qlora", "rslora", "dora", "adalora", "ia3",
    "prompt_tuning", "prefix_tuning", "p_tuning", "full",
]  # fmt: skip

IMPLEMENTED_METHODS: tuple[Method, ...] = ("lora", "qlora")


class Section(BaseModel):
    """A part of the config: frozen, and a key that isn't there is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSection(Section):
    """Where the rows come from and how they are cleaned. Paths are relative to the config file."""

    train: str = Field(description="JSON, JSONL, CSV or Parquet file, or a hub dataset's name")
    eval: float | str = Field(
        default=defaults.EVAL_SHARE,
        description="a file of held-out rows, or the share of train to hold out",
    )
    format: Literal["auto", "instruction", "messages", "conversations", "prompt"] = "auto"
    max_length: int = Field(default=defaults.MAX_LENGTH, ge=8, description="tokens of a row")
    over_length: Literal["drop", "truncate", "fail"] = "drop"
    max_eval_rows: int = Field(default=defaults.MAX_EVAL_ROWS, ge=1)

    @field_validator("eval")
    @classmethod
    def _share_is_a_share(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0.0 < value < 1.0:
            raise ValueError(
                "a share of train must be above 0 and below 1, e.g. 0.05; or name a file"
            )
        return value


class LoraSection(Section):
    """The shape of the adapter (arXiv:2106.09685)."""

    r: int = Field(default=defaults.LORA_RANK, ge=1, description="rank of each update")
    alpha: float | None = Field(default=None, gt=0, description="scale numerator; default 2 r")
    dropout: float = Field(default=defaults.LORA_DROPOUT, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    init: Literal["default", "gaussian"] = "default"

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names_are_a_list(cls, value: object) -> object:
        if isinstance(value, str) and value != "all-linear":
            return [name.strip() for name in value.split(",") if name.strip()]
        return value

    @property
    def effective_alpha(self) -> float:
        return defaults.LORA_ALPHA_PER_RANK * self.r if self.alpha is None else self.alpha


class QuantizationSection(Section):
    """How the base's linear weights are held while training; `method: lora` ignores it."""

    scheme: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True


class TrainingSection(Section):
    """The loop. What is null is chosen from the amount of data, and said."""

    epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1, description="end after so many steps")
    learning_rate: float = Field(default=defaults.LEARNING_RATE, gt=0, allow_inf_nan=False)
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_share: float = Field(default=defaults.WARMUP_SHARE, ge=0, lt=1)
    weight_decay: float = Field(default=defaults.WEIGHT_DECAY, ge=0)
    max_grad_norm: float = Field(default=defaults.MAX_GRAD_NORM, gt=0)
    batch_tokens: int | None = Field(
        default=None, ge=8, description="tokens of one forward, padding included"
    )
    gradient_accumulation: int = Field(default=1, ge=1, description="forwards per optimiser step")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations: less memory, about a third slower"
    )
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class EvaluationSection(Section):
    """When held-out loss is measured, and what is shown at the end."""

    every: Literal["epoch", "end"] | int = "epoch"
    keep_best: bool = Field(default=True, description="publish the weights of the best evaluation")
    batch_tokens: int = Field(default=defaults.EVAL_BATCH_TOKENS, ge=8)
    samples: int = Field(default=defaults.NUM_SAMPLES, ge=0)
    sample_tokens: int = Field(default=defaults.SAMPLE_TOKENS, ge=1)

    @field_validator("every")
    @classmethod
    def _every_is_positive(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("evaluate every 1 or more steps, at each epoch, or at the end")
        return value


class PublishSection(Section):
    """What must hold before a version is written, and what happens to the store then."""

    gate: str = Field(default=defaults.GATE, description="e.g. eval_loss < 0.7 * base, or none")
    alias: bool = Field(default=True, description="let the name point at the new version")
    keep: int | None = Field(default=None, ge=1, description="versions left in the store")
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    @field_validator("gate")
    @classmethod
    def _gate_parses(cls, value: str) -> str:
        try:
            parse_gate(value)
        except ConfigError as error:
            raise ValueError(error.problems[0]) from None
        return value


class TrainerConfig(Section):
    """One training run. `trainer_args` goes to transformers' TrainingArguments as it stands."""

    name: str = Field(description="what the adapter is called in the store")
    base: str = Field(description="embedded:NAME, a local folder, or a hub id")
    method: Method = "qlora"
    data: DataSection
    lora: LoraSection = LoraSection()
    quantization: QuantizationSection = QuantizationSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    publish: PublishSection = PublishSection()
    seed: int = Field(default=0, ge=0, lt=2**32)
    trainer_args: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name_is_a_name(cls, value: str) -> str:
        try:
            ref = parse_ref(value)
        except AdapterError as error:
            raise ValueError(str(error)) from None
        if ref.version is not None:
            raise ValueError("the store numbers the versions: give the name without '@'")
        return value

    @field_validator("method")
    @classmethod
    def _method_is_there(cls, value: Method) -> Method:
        if value not in IMPLEMENTED_METHODS:
            raise ValueError(
                f"{value} can't be trained yet; use one of: {', '.join(IMPLEMENTED_METHODS)}"
            )
        return value

    @model_validator(mode="after")
    def _lora_takes_no_quantization(self) -> Self:
        if self.method == "lora" and "quantization" in self.model_fields_set:
            raise ValueError(
                "method lora trains on the unquantised base, so quantization has no effect; "
                "remove it, or use method qlora"
            )
        return self
