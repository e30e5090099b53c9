"""What the run optimises: the answers as they are, or a preference between answers."""

from typing import Literal

from pydantic import Field

from trainer.config.section import Section

Objective = Literal["sft", "dpo", "orpo", "kto"]


class PreferenceSection(Section):
    """Preference tuning; objectives dpo, orpo and kto."""

    beta: float = Field(
        default=0.1, gt=0, description="how far from the base the model may go: small is far"
    )
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = Field(
        default="sigmoid", description="dpo: the loss on the margin between the two answers"
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="dpo with loss robust: share of preferences assumed to be wrong",
    )
    sft_weight: float = Field(
        default=0.0, ge=0, description="dpo: weight of the plain loss on the chosen answer"
    )
    desirable_weight: float = Field(default=1.0, gt=0, description="kto: weight of good answers")
    undesirable_weight: float = Field(default=1.0, gt=0, description="kto: weight of bad answers")
