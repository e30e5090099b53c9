"""Which method trains the adapter, and what the base is held as."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainer.config.section import Section
from trainer.methods.registry import METHODS

# A type checker can't read a registry; the schema and its errors list the names.
if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[tuple(METHODS)]


class QuantizationSection(Section):
    """How the base's linear weights are held while training; lora and full ignore it."""

    scheme: Literal["nf4", "fp4", "none"] = Field(
        default="nf4", description="nf4 (what servers hold), fp4, or none"
    )
    double_quant: bool = Field(
        default=True, description="quantise the scales too: 0.37 bits a weight less"
    )
