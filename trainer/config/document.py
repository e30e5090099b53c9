"""The whole config: what stands at the top of the YAML, and what can't stand together."""

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from adapters.errors import AdapterError
from adapters.names import parse_ref
from trainer.config import defaults
from trainer.config.contradictions import CONTRADICTION, contradictions
from trainer.config.data import DataSection
from trainer.config.evaluation import EvaluationSection
from trainer.config.method import Method, QuantizationSection
from trainer.config.objective import Objective, PreferenceSection
from trainer.config.publish import PublishSection
from trainer.config.section import Section
from trainer.config.training import TrainingSection
from trainer.methods.method import TrainingMethod
from trainer.methods.registry import METHOD_SECTIONS, METHODS, sections_unused_by


class _RunHead(Section):
    """What stands above the sections of the methods."""

    name: str = Field(description="what the adapter is called in the store")
    base: str = Field(description="embedded:NAME, a local folder, or a hub id")
    method: Method = Field(
        default=defaults.METHOD, description="what is trained, on what kind of base"
    )
    objective: Objective = Field(
        default="sft", description="sft (answers as they are), or a preference: dpo, orpo, kto"
    )
    data: DataSection = Field(description="the rows")


# Methods bring their sections with them, and read them by `MethodSection.of`.
if TYPE_CHECKING:
    _WithMethodSections = _RunHead
else:
    _WithMethodSections = create_model(
        "_WithMethodSections",
        __base__=_RunHead,
        **{
            section.name: (
                section.model,
                Field(default=section.model(), description=section.description),
            )
            for section in METHOD_SECTIONS
        },
    )


class TrainerConfig(_WithMethodSections):
    """One training run. `trainer_args` goes to transformers' TrainingArguments as it stands."""

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
    def training_method(self) -> TrainingMethod:
        """The record of `method`."""
        return METHODS[self.method]

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as given, or what the method wants."""
        given = self.training.learning_rate
        return self.training_method.learning_rate if given is None else given

    @property
    def rank(self) -> int:
        """Rank that each adapted module begins with; 0 for methods without ranks."""
        return self.training_method.rank(self)

    @property
    def alpha(self) -> float:
        """The scale's numerator, given or chosen; 0 for methods without ranks."""
        return self.training_method.alpha(self)

    def document(self) -> dict[str, Any]:
        """The config with every default in it, as JSON values, without sections that don't apply.

        It validates again, to an equal run.
        """
        unused = sections_unused_by(self.method)
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
