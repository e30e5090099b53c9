"""The whole config: what stands at the top of the YAML, and what can't stand together."""

import math
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from adapters.errors import AdapterError
from adapters.names import parse_ref
from trainer import defaults
from trainer.config.contradictions import CONTRADICTION, contradictions
from trainer.config.data import DataSection
from trainer.config.evaluation import EvaluationSection
from trainer.config.method import (
    SECTION_METHODS,
    AdaloraSection,
    Ia3Section,
    LoraSection,
    Method,
    PromptSection,
    QuantizationSection,
)
from trainer.config.objective import Objective, PreferenceSection
from trainer.config.publish import PublishSection
from trainer.config.section import Section
from trainer.config.training import TrainingSection


class TrainerConfig(Section):
    """One training run. `trainer_args` goes to transformers' TrainingArguments as it stands."""

    name: str = Field(description="what the adapter is called in the store")
    base: str = Field(description="embedded:NAME, a local folder, or a hub id")
    method: Method = Field(default="qlora", description="what is trained, on what kind of base")
    objective: Objective = Field(
        default="sft", description="sft (answers as they are), or a preference: dpo, orpo, kto"
    )
    data: DataSection = Field(description="the rows")
    lora: LoraSection = Field(default=LoraSection(), description="the adapter's shape")
    adalora: AdaloraSection = Field(default=AdaloraSection(), description="method adalora")
    ia3: Ia3Section = Field(default=Ia3Section(), description="method ia3")
    prompt: PromptSection = Field(
        default=PromptSection(), description="methods prompt_tuning, prefix_tuning, p_tuning"
    )
    quantization: QuantizationSection = Field(
        default=QuantizationSection(), description="how the base's linear weights are held"
    )
    training: TrainingSection = Field(default=TrainingSection(), description="the loop")
    preference: PreferenceSection = Field(
        default=PreferenceSection(), description="objectives dpo, orpo, kto"
    )
    evaluation: EvaluationSection = Field(
        default=EvaluationSection(), description="what is measured and shown"
    )
    publish: PublishSection = Field(
        default=PublishSection(), description="what must hold before a version is written"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="of the adapter, the order of rows, and dropout"
    )
    trainer_args: dict[str, Any] = Field(
        default_factory=dict, description="more of transformers' TrainingArguments, by their names"
    )

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as given, or what the method wants."""
        if self.training.learning_rate is not None:
            return self.training.learning_rate
        return defaults.LEARNING_RATES.get(self.method, defaults.LEARNING_RATE)

    @property
    def uses_rslora(self) -> bool:
        """Whether the update is scaled by alpha/sqrt(r)."""
        return self.method == "rslora" or self.lora.use_rslora

    @property
    def rank(self) -> int:
        """Rank that each adapted module begins with; 0 for methods without ranks."""
        if self.method not in SECTION_METHODS["lora"]:
            return 0
        return self.adalora.init_r if self.method == "adalora" else self.lora.r

    @property
    def alpha(self) -> float:
        """`lora.alpha`, or the value that makes the update's scale 2 at any rank."""
        if self.lora.alpha is not None:
            return self.lora.alpha
        if self.uses_rslora:
            return defaults.LORA_ALPHA_PER_RANK * math.sqrt(self.lora.r)
        rank = self.adalora.target_r if self.method == "adalora" else self.lora.r
        return float(defaults.LORA_ALPHA_PER_RANK * rank)

    def document(self) -> dict[str, Any]:
        """The config with every default in it, as JSON values, without sections that don't apply.

        It validates again, to an equal run.
        """
        unused = {name for name, methods in SECTION_METHODS.items() if self.method not in methods}
        if self.method in ("lora", "full"):
            unused.add("quantization")
        if self.objective == "sft":
            unused.add("preference")
        return self.model_dump(mode="json", exclude=unused)

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

    @model_validator(mode="after")
    def _nothing_contradicts(self) -> Self:
        problems = contradictions(self.model_dump(mode="json", exclude_unset=True))
        if problems:
            raise PydanticCustomError(
                CONTRADICTION, "{problems}", {"problems": "\n".join(problems)}
            )
        return self
