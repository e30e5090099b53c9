"""IA3 (arXiv:2205.05638): vectors that rescale keys, values and the MLP's inner activation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from trainer.config.section import Section
from trainer.errors import MethodError
from trainer.methods.method import AdapterMethod, MethodSection, TrainingForward
from trainer.methods.targets import (
    BaseGeometry,
    Shape,
    last_parts,
    matches_any,
    names_or_word,
    require_matches,
)

if TYPE_CHECKING:
    from trainer.config import TrainerConfig

_ATTENTION = ("k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value")
_FEEDFORWARD = ("down_proj", "mlp.c_proj", "dense_4h_to_h")
"""Where IA3 acts by default, by the names that llama, mistral, qwen, gemma, phi, glm, gpt2,
gpt-neox and bloom have for keys, values, and the MLP's way down."""

Ia3Targets = Annotated[Literal["auto"] | tuple[str, ...], BeforeValidator(names_or_word)]


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


IA3_SECTION = MethodSection("ia3", Ia3Section, "method ia3")


class Ia3(AdapterMethod):
    """One factor for each output of a linear, or for each input of a feed-forward one."""

    name = "ia3"
    sections: ClassVar[tuple[MethodSection[Any], ...]] = (IA3_SECTION,)
    # A few vectors want far more than LoRA: 3e-3 in the paper.
    learning_rate = 5e-3

    def describe(self, config: "TrainerConfig") -> str:
        chosen = IA3_SECTION.of(config).target_modules
        return "target modules: " + (chosen if isinstance(chosen, str) else ", ".join(chosen))

    def match_modules(
        self, config: "TrainerConfig", modules: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        targets, _ = _targets(config, modules)
        return {name: shape for name, shape in modules.items() if matches_any(name, targets)}

    def count_parameters(
        self, config: "TrainerConfig", matched: Mapping[str, Shape], geometry: BaseGeometry
    ) -> int:
        return sum(_widths(config, matched))

    def peft_config(
        self,
        config: "TrainerConfig",
        modules: Mapping[str, Shape],
        geometry: BaseGeometry,
        *,
        num_steps: int,
        is_transposed: bool,
    ) -> Any:
        from peft import IA3Config

        targets, feedforward = _targets(config, modules)
        return IA3Config(
            target_modules=sorted(targets),
            feedforward_modules=sorted(feedforward),
            fan_in_fan_out=is_transposed,
            task_type="CAUSAL_LM",
        )

    def kept_bytes(self, config: "TrainerConfig", forward: TrainingForward) -> int:
        """What is scaled, in float32."""
        matched = self.match_modules(config, forward.shape.linears)
        return forward.tokens * 4 * sum(_widths(config, matched))


def _widths(config: "TrainerConfig", matched: Mapping[str, Shape]) -> list[int]:
    """The length of each module's vector: that of its input if feed-forward, else its output."""
    _, feedforward = _targets(config, matched)
    return [
        inputs if matches_any(name, feedforward) else outputs
        for name, (inputs, outputs) in matched.items()
    ]


def _targets(
    config: "TrainerConfig", modules: Mapping[str, Shape]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(targets, those among them whose input is scaled) as parts of module names."""
    section = IA3_SECTION.of(config)
    targets = section.target_modules
    if targets == "auto":
        known = (*_ATTENTION, *_FEEDFORWARD)
        targets = tuple(t for t in known if any(matches_any(name, (t,)) for name in modules))
        if not targets:
            raise MethodError(
                f"ia3.target_modules: {config.base} names its layers in an unknown way; give some "
                f"of {', '.join(last_parts(modules))}"
            )
    else:
        require_matches("ia3.target_modules", targets, modules, config.base)
    feedforward = section.feedforward_modules
    if feedforward == "auto":
        return targets, tuple(
            t for t in targets if t in _FEEDFORWARD or any(f.endswith(t) for f in _FEEDFORWARD)
        )
    strangers = [name for name in feedforward if name not in targets]
    if strangers:
        raise MethodError(
            f"ia3.feedforward_modules: {', '.join(strangers)} must also be in ia3.target_modules, "
            f"which has {', '.join(targets)}"
        )
    return targets, feedforward
