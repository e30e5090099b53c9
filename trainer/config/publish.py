"""What must hold before a version is written, and what happens to the store then."""

from typing import Literal

from pydantic import Field, field_validator

from trainer.config import defaults
from trainer.config.gate import parse_any_gate
from trainer.config.section import Section
from trainer.errors import ConfigError


class PublishSection(Section):
    """What must hold before a version is written, and what happens to the store then."""

    gate: str = Field(default=defaults.GATE, description="e.g. eval_loss < 0.7 * base, or none")
    alias: bool = Field(default=True, description="let the name point at the new version")
    keep: int | None = Field(
        default=None, ge=1, description="versions left in the store; its own policy may leave fewer"
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        default=defaults.ADAPTER_DTYPE,
        description="of the published weights; evaluated after this rounding",
    )

    @field_validator("gate")
    @classmethod
    def _gate_parses(cls, value: str) -> str:
        try:
            parse_any_gate(value)
        except ConfigError as error:
            raise ValueError(error.problems[0]) from None
        return value
