"""AdaLoRA: ranks move between modules while training; published as a plain LoRA of what is left."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from trainer.config import defaults
from trainer.config.section import Section
from trainer.config.written import is_changed, written_value
from trainer.errors import MethodError
from trainer.methods.lora_family import LORA_SECTION, LoraMethod, LoraSection, Rank
from trainer.methods.method import MethodSection
from trainer.methods.targets import BaseGeometry, Shape

if TYPE_CHECKING:
    from trainer.config import TrainerConfig
    from trainer.tuning.attachment import RunStart
    from trainer.tuning.tuning import Tuning


class AdaloraSection(Section):
    """Ranks that move between modules while training (arXiv:2303.10512); method adalora."""

    init_r: Rank = Field(
        default=defaults.ADALORA_INIT_RANK, description="rank of each module at the beginning"
    )
    target_r: Rank = Field(
        default=defaults.ADALORA_TARGET_RANK, description="mean rank at the end; below init_r"
    )
    tinit: int | None = Field(
        default=None, ge=0, description="steps before ranks move; default a tenth of all steps"
    )
    tfinal: int | None = Field(
        default=None, ge=0, description="steps after they stopped; default a third of all steps"
    )
    deltaT: int | None = Field(  # noqa: N815  PEFT's name
        default=None, ge=1, description="steps between two moves; default about 20 moves"
    )
    beta1: float = Field(default=0.85, gt=0, lt=1, description="smoothing of the sensitivity")
    beta2: float = Field(default=0.85, gt=0, lt=1, description="smoothing of its uncertainty")
    orth_reg_weight: float = Field(
        default=0.5, ge=0, description="weight of the penalty that keeps P and Q orthogonal"
    )


ADALORA_SECTION = MethodSection("adalora", AdaloraSection, "method adalora")

_IGNORED = {
    "r": "; see adalora.init_r and adalora.target_r",
    "rank_pattern": ", which finds the ranks itself",
    "alpha_pattern": "",
    "use_dora": "",
    "use_rslora": "",
    "lr_ratio": "",
}
"""Keys of `lora` that have no effect, and what to say of them."""


class Adalora(LoraMethod):
    """B diag(E) A with a rank allocator (arXiv:2303.10512)."""

    name = "adalora"
    sections: ClassVar[tuple[MethodSection[Any], ...]] = (LORA_SECTION, ADALORA_SECTION)
    ignored_keys = frozenset(f"lora.{key}" for key in ("init", *_IGNORED))

    def contradictions(self, document: Mapping[str, Any]) -> list[str]:
        problems = super().contradictions(document)
        init_r, target_r = (written_value(document, "adalora", k) for k in ("init_r", "target_r"))
        init_r = defaults.ADALORA_INIT_RANK if init_r is None else init_r
        target_r = defaults.ADALORA_TARGET_RANK if target_r is None else target_r
        if isinstance(init_r, int) and isinstance(target_r, int) and target_r >= init_r:
            problems.append(
                f"adalora.target_r: {target_r} must be below adalora.init_r, which is {init_r}"
            )
        return problems

    def variant_contradictions(self, document: Mapping[str, Any]) -> list[str]:
        init = written_value(document, "lora", "init")
        problems = []
        if init not in (None, "default"):
            problems.append(f"lora.init: {init} has no effect with method adalora")
        return problems + [
            f"lora.{key}: has no effect with method adalora{hint}"
            for key, hint in _IGNORED.items()
            if is_changed(document, "lora", LoraSection, key)
        ]

    def rank(self, config: "TrainerConfig") -> int:
        return ADALORA_SECTION.of(config).init_r

    def final_rank(self, config: "TrainerConfig") -> int:
        return ADALORA_SECTION.of(config).target_r

    def describe_rank(self, config: "TrainerConfig") -> str:
        return f"rank {self.rank(config)} falling to {self.final_rank(config)} on average"

    def count_in_module(self, config: "TrainerConfig", rank: int, shape: Shape) -> int:
        return super().count_in_module(config, rank, shape) + rank

    def peft_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
        is_transposed: bool,
    ) -> Any:
        from peft import AdaLoraConfig

        section = ADALORA_SECTION.of(config)
        tinit, tfinal, delta = _schedule(section, num_steps)
        return AdaLoraConfig(
            init_r=section.init_r,
            target_r=section.target_r,
            tinit=tinit,
            tfinal=tfinal,
            deltaT=delta,
            beta1=section.beta1,
            beta2=section.beta2,
            orth_reg_weight=section.orth_reg_weight,
            total_step=num_steps,
            **self.common_peft_fields(config, is_transposed),
        )

    def attach(self, start: "RunStart") -> "Tuning":
        from trainer.tuning.adalora_tuning import AdaloraTuning
        from trainer.tuning.attachment import put_on_base

        return AdaloraTuning(put_on_base(self, start), start.config)

    def is_lean(self, config: "TrainerConfig") -> bool:
        return False

    def published_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
    ) -> None:
        return None


def _schedule(section: AdaloraSection, num_steps: int) -> tuple[int, int, int]:
    """(tinit, tfinal, deltaT) in steps: a tenth, a third, and about 20 moves between them.

    Raises `MethodError` for a schedule that doesn't fit into the steps.
    """
    tinit = num_steps // 10 if section.tinit is None else section.tinit
    tfinal = math.ceil(num_steps / 3) if section.tfinal is None else section.tfinal
    moving = num_steps - tinit - tfinal
    if moving < 1:
        raise MethodError(
            f"adalora.tinit {tinit} and adalora.tfinal {tfinal} leave no step of {num_steps} in "
            "which ranks could move; lower them, or train longer"
        )
    return tinit, tfinal, section.deltaT or max(1, moving // 20)
