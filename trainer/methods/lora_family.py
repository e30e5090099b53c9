"""What LoRA and its variants share: section, targets, PEFT's config, memory, starting points."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from adapters.format.module_patterns import PatternTable
from trainer.config import defaults
from trainer.config.section import Names, Section
from trainer.config.written import is_changed, written_value
from trainer.errors import MethodError
from trainer.methods.lora_memory import adapter_inputs, lean_inputs
from trainer.methods.method import AdapterMethod, MethodSection, TrainingForward
from trainer.methods.targets import (
    BaseGeometry,
    Shape,
    matches_any,
    names_or_word,
    require_matches,
)

if TYPE_CHECKING:
    from torch import nn

    from trainer.config import TrainerConfig
    from trainer.tuning.attachment import RunStart
    from trainer.tuning.tuning import Tuning

_INITS = ("default", "gaussian", "orthogonal", "pissa", "olora", "corda", "loftq", "qera", "eva")
QUANTIZATION_INITS = frozenset({"loftq", "qera"})
"""Those that begin at what the quantisation of the base lost."""

_PISSA_NITER = re.compile(r"pissa_niter_\d{1,3}")


def changes_the_base(init: str) -> bool:
    """Whether the initialisation takes its starting point out of the base weight."""
    return init.startswith(("pissa", "olora", "corda"))


def _is_an_init(value: str) -> str:
    if value not in _INITS and not _PISSA_NITER.fullmatch(value):
        raise ValueError(f"use one of {', '.join(_INITS)}, or pissa_niter_N such as pissa_niter_16")
    return value


Rank = Annotated[int, Field(ge=1, le=defaults.MAX_RANK)]
Targets = Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(names_or_word)]


class LoraSection(Section):
    """The shape of the adapter (arXiv:2106.09685), for lora, qlora, rslora, dora and adalora."""

    r: Rank = Field(default=defaults.LORA_RANK, description="rank of each update")
    alpha: float | None = Field(
        default=None, gt=0, le=1e6, description="scale numerator; default 2 r (rslora: 2 sqrt r)"
    )
    dropout: float = Field(
        default=defaults.LORA_DROPOUT, ge=0, lt=1, description="of the adapter's input"
    )
    target_modules: Targets = Field(
        default="all-linear", description="all-linear, or the last parts of module names"
    )
    exclude_modules: Names = Field(
        default=(), description="modules to leave alone, by the last parts of their names"
    )
    init: Annotated[str, AfterValidator(_is_an_init)] = Field(
        default="default",
        description="how A and B begin: default, gaussian, orthogonal, pissa, pissa_niter_N, "
        "olora, corda, loftq, qera, eva; the published adapter is relative to the plain base "
        "with each",
    )
    rank_pattern: dict[str, Rank] = Field(
        default_factory=dict, description="other ranks for some modules: name or regex -> rank"
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(
        default_factory=dict, description="other alphas for some modules: name or regex -> alpha"
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        default="none",
        description="also train the base's own biases: none, all, or lora_only (of the targets)",
    )
    modules_to_save: Names = Field(
        default=(), description="modules trained in full and published with the adapter"
    )
    use_rslora: bool = Field(
        default=False, description="scale by alpha/sqrt(r) (arXiv:2312.03732); for dora and qlora"
    )
    use_dora: bool = Field(
        default=False, description="train magnitudes apart from directions (arXiv:2402.09353)"
    )
    lr_ratio: float | None = Field(
        default=None, gt=0, le=1e4, description="LoRA+: learning rate of B over that of A, e.g. 16"
    )


LORA_SECTION = MethodSection("lora", LoraSection, "the adapter's shape")


class LoraMethod(AdapterMethod):
    """A low-rank update B A of linears (arXiv:2106.09685); the variants say how they differ."""

    sections: ClassVar[tuple[MethodSection[Any], ...]] = (LORA_SECTION,)
    always_rslora: ClassVar[bool] = False
    always_dora: ClassVar[bool] = False

    def is_rslora(self, config: "TrainerConfig") -> bool:
        """Whether the update is scaled by alpha/sqrt(r)."""
        return self.always_rslora or LORA_SECTION.of(config).use_rslora

    def is_dora(self, config: "TrainerConfig") -> bool:
        """Whether magnitudes are trained apart from directions."""
        return self.always_dora or LORA_SECTION.of(config).use_dora

    def contradictions(self, document: Mapping[str, Any]) -> list[str]:
        problems = []
        init = written_value(document, "lora", "init")
        dora = self.always_dora or written_value(document, "lora", "use_dora") is True
        taken_out = isinstance(init, str) and changes_the_base(init)
        at_quantization = isinstance(init, str) and init in QUANTIZATION_INITS
        if (taken_out or at_quantization) and dora:
            problems.append(
                f"lora.init: {init} starts with a B that isn't zero, and DoRA's magnitudes are "
                "those of the plain base; use default"
            )
        if taken_out and is_changed(document, "lora", LoraSection, "bias"):
            problems.append(
                f"lora.bias: {init} trains beside a second adapter, and PEFT trains biases with "
                "one; use none"
            )
        problems += self.variant_contradictions(document)
        scheme = written_value(document, "quantization", "scheme")
        quantized = self.quantizes_base and scheme != "none"
        if init == "orthogonal" and quantized:
            problems.append(
                "lora.init: PEFT's orthogonal start needs an unquantised base; use method lora"
            )
        if at_quantization and not quantized:
            problems.append(
                f"lora.init: {init} makes up for the quantisation of the base, and this base isn't "
                "quantised; use default"
            )
        return problems

    def variant_contradictions(self, document: Mapping[str, Any]) -> list[str]:
        """What else can't stand together under this variant."""
        return []

    def rank(self, config: "TrainerConfig") -> int:
        return LORA_SECTION.of(config).r

    def final_rank(self, config: "TrainerConfig") -> int:
        """The mean rank at the end, which alpha goes by."""
        return self.rank(config)

    def rank_of(self, config: "TrainerConfig", module: str) -> int:
        """The rank that `module` begins with, by `lora.rank_pattern` as PEFT reads it."""
        table = PatternTable(LORA_SECTION.of(config).rank_pattern)
        return table.value(module, self.rank(config))

    def alpha(self, config: "TrainerConfig") -> float:
        """`lora.alpha`, or the value that makes the update's scale 2 at any rank."""
        lora = LORA_SECTION.of(config)
        if lora.alpha is not None:
            return lora.alpha
        if self.is_rslora(config):
            return defaults.LORA_ALPHA_PER_RANK * math.sqrt(lora.r)
        return float(defaults.LORA_ALPHA_PER_RANK * self.final_rank(config))

    def describe(self, config: "TrainerConfig") -> str:
        """For example `rank 16, alpha 32, dropout 0.05, target modules: all-linear`."""
        lora = LORA_SECTION.of(config)
        targets = lora.target_modules
        parts = [
            self.describe_rank(config),
            f"alpha {self.alpha(config):g}",
            f"dropout {lora.dropout:g}",
            "target modules: " + (targets if isinstance(targets, str) else ", ".join(targets)),
        ]
        if lora.exclude_modules:
            parts.append("without " + ", ".join(lora.exclude_modules))
        if lora.init != "default":
            parts.append(f"init {lora.init}")
        if lora.bias != "none":
            parts.append("trained biases: " + lora.bias)
        if lora.lr_ratio is not None:
            parts.append(f"LoRA+ ratio {lora.lr_ratio:g}")
        return ", ".join(parts)

    def describe_rank(self, config: "TrainerConfig") -> str:
        return f"rank {self.rank(config)}"

    def match_modules(
        self, config: "TrainerConfig", modules: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        lora = LORA_SECTION.of(config)
        if lora.target_modules == "all-linear":
            matched = dict(modules)
        else:
            require_matches("lora.target_modules", lora.target_modules, modules, config.base)
            matched = {n: s for n, s in modules.items() if matches_any(n, lora.target_modules)}
        require_matches("lora.exclude_modules", lora.exclude_modules, modules, config.base)
        left = {n: s for n, s in matched.items() if not matches_any(n, lora.exclude_modules)}
        if not left:
            raise MethodError("lora.exclude_modules: nothing is left of lora.target_modules")
        return left

    def count_parameters(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], geometry: BaseGeometry
    ) -> int:
        return sum(
            self.count_in_module(config, self.rank_of(config, name), shape)
            for name, shape in matched.items()
        )

    def count_in_module(self, config: "TrainerConfig", rank: int, shape: Shape) -> int:
        """Parameters on one linear that is adapted with `rank`."""
        inputs, outputs = shape
        return rank * (inputs + outputs) + outputs * self.is_dora(config)

    def count_in_model(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], model: "nn.Module"
    ) -> int:
        saved = sum(
            int(parameter.numel())
            for name, module in model.named_modules()
            if matches_any(name, LORA_SECTION.of(config).modules_to_save)
            for parameter in module.parameters()
        )
        return saved + super().count_in_model(config, matched, model)

    def peft_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
        is_transposed: bool,
    ) -> Any:
        from peft import EvaConfig, LoraConfig

        lora = LORA_SECTION.of(config)
        init = lora.init
        # What would change the base, or needs weights that PEFT doesn't have, is written over the
        # plain start afterwards.
        plain = init in ("default", *QUANTIZATION_INITS) or changes_the_base(init)
        # rho 1: every module keeps its rank, so that what was checked is what is trained.
        eva = {"eva_config": EvaConfig(rho=1.0)} if init == "eva" else {}
        return LoraConfig(
            r=lora.r,
            init_lora_weights=True if plain else init,
            rank_pattern=dict(lora.rank_pattern),
            alpha_pattern={name: _whole(alpha) for name, alpha in lora.alpha_pattern.items()},
            use_rslora=self.is_rslora(config),
            use_dora=self.is_dora(config),
            **eva,
            **self.common_peft_fields(config, is_transposed),
        )

    def common_peft_fields(self, config: "TrainerConfig", is_transposed: bool) -> dict[str, Any]:
        """Fields that PEFT's configs of LoRA and AdaLoRA share."""
        lora = LORA_SECTION.of(config)
        targets = lora.target_modules
        return {
            "lora_alpha": _whole(self.alpha(config)),
            "lora_dropout": lora.dropout,
            "target_modules": targets if isinstance(targets, str) else sorted(targets),
            "exclude_modules": sorted(lora.exclude_modules) or None,
            "modules_to_save": sorted(lora.modules_to_save) or None,
            "bias": lora.bias,
            "fan_in_fan_out": is_transposed,
            "task_type": "CAUSAL_LM",
        }

    def attach(self, start: "RunStart") -> "Tuning":
        from trainer.tuning.attachment import put_on_base
        from trainer.tuning.lean_lora import make_lora_lean
        from trainer.tuning.lora_tuning import LoraTuning
        from trainer.tuning.started import StartedTuning
        from trainer.tuning.starting_point import (
            begin_at_activations,
            begin_at_base,
            begin_at_quantization_error,
        )

        init = LORA_SECTION.of(start.config).init
        # EVA's A is made later; PEFT wants it on no device until then.
        model = put_on_base(self, start, low_cpu_mem_usage=init == "eva")
        if init == "eva":
            begin_at_activations(model, start.rows, start.pad_id)
        elif init in QUANTIZATION_INITS:
            begin_at_quantization_error(model, init, start.base.resolved.path, start.rows)
        elif changes_the_base(init):
            begin_at_base(model, init, start.rows)
            return StartedTuning(model, start.config)
        make_lora_lean(model)
        return LoraTuning(model, start.config)

    def is_lean(self, config: "TrainerConfig") -> bool:
        return not self.is_dora(config) and not changes_the_base(LORA_SECTION.of(config).init)

    def kept_bytes(self, config: "TrainerConfig", forward: TrainingForward) -> int:
        matched = self.match_modules(config, forward.shape.linears)
        has_dropout = LORA_SECTION.of(config).dropout > 0
        ranks = sum(self.rank_of(config, name) for name in matched)
        if forward.is_lean:
            return lean_inputs(matched, forward, ranks, has_dropout=has_dropout)
        return adapter_inputs(
            matched, forward, ranks, has_dropout=has_dropout, is_dora=self.is_dora(config)
        )

    def passing_blocks(self, config: "TrainerConfig", forward: TrainingForward) -> Sequence[int]:
        if forward.is_lean:
            return ()
        # PEFT makes an adapter's output in float32, scales it, and adds it to the base's.
        matched = self.match_modules(config, forward.shape.linears).values()
        blocks = [4 * forward.tokens * outputs for _, outputs in matched]
        if LORA_SECTION.of(config).dropout > 0 and forward.element_bytes < 4:
            # Its input in float32 is what dropout reads, and nobody after it.
            blocks += [4 * forward.tokens * inputs for inputs, _ in matched]
        return blocks

    def published_rank(self, config: "TrainerConfig", matched: Mapping[str, Shape]) -> int:
        """Twice the trained one after PiSSA, OLoRA and CorDA."""
        ranks = (self.rank_of(config, name) for name in matched)
        largest = max(ranks, default=self.rank(config))
        return largest * (2 if changes_the_base(LORA_SECTION.of(config).init) else 1)


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
