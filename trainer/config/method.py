"""How the adapter is made and what the base is held as: one section for each family of methods."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from trainer import defaults
from trainer.config.section import Names, Section

Method = Literal[
    "lora", "qlora", "rslora", "dora", "adalora", "ia3",
    "prompt_tuning", "prefix_tuning", "p_tuning", "full",
]  # fmt: skip

LORA_FAMILY: frozenset[Method] = frozenset({"lora", "qlora", "rslora", "dora", "adalora"})
PROMPT_FAMILY: frozenset[Method] = frozenset({"prompt_tuning", "prefix_tuning", "p_tuning"})

_INITS = ("default", "gaussian", "orthogonal", "pissa", "olora", "corda", "loftq", "qera", "eva")
QUANTIZATION_INITS = frozenset({"loftq", "qera"})
"""Those that begin at what the quantisation of the base lost."""

_PISSA_NITER = re.compile(r"pissa_niter_\d{1,3}")


def _all_linear_or_names(value: object) -> object:
    if isinstance(value, str) and value not in ("all-linear", "auto"):
        return [name.strip() for name in value.split(",") if name.strip()]
    return value


def _is_an_init(value: str) -> str:
    if value not in _INITS and not _PISSA_NITER.fullmatch(value):
        raise ValueError(f"use one of {', '.join(_INITS)}, or pissa_niter_N such as pissa_niter_16")
    return value


Rank = Annotated[int, Field(ge=1, le=defaults.MAX_RANK)]
Targets = Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(_all_linear_or_names)]
Ia3Targets = Annotated[Literal["auto"] | tuple[str, ...], BeforeValidator(_all_linear_or_names)]


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


class Ia3Section(Section):
    """Vectors that rescale activations (arXiv:2205.05638); method ia3."""

    target_modules: Ia3Targets = Field(
        default="auto",
        description="auto (keys, values and the MLP's way down), or parts of module names",
    )
    feedforward_modules: Ia3Targets = Field(
        default="auto",
        description="those of target_modules whose input is scaled instead of their output",
    )


class PromptSection(Section):
    """Trained vectors in front of the text; methods prompt_tuning, prefix_tuning, p_tuning."""

    num_virtual_tokens: int = Field(
        default=defaults.NUM_VIRTUAL_TOKENS, ge=1, le=1024, description="how many vectors"
    )
    init_text: str | None = Field(
        default=None,
        min_length=1,
        description="prompt_tuning: begin with the embeddings of this text; default random words",
    )
    encoder_hidden: int | None = Field(
        default=None,
        ge=1,
        le=1 << 16,
        description="p_tuning, prefix_tuning: width of the network that makes the vectors; default "
        "the model's width (p_tuning), no network (prefix_tuning)",
    )


class QuantizationSection(Section):
    """How the base's linear weights are held while training; lora and full ignore it."""

    scheme: Literal["nf4", "fp4", "none"] = Field(
        default="nf4", description="nf4 (what servers hold), fp4, or none"
    )
    double_quant: bool = Field(
        default=True, description="quantise the scales too: 0.37 bits a weight less"
    )


SECTION_METHODS: dict[str, frozenset[Any]] = {
    "lora": LORA_FAMILY,
    "adalora": frozenset({"adalora"}),
    "ia3": frozenset({"ia3"}),
    "prompt": PROMPT_FAMILY,
}
"""Which methods read a section; a section that is given for another method is refused."""
