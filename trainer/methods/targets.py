"""Which modules of a base a method changes, and how many parameters it trains there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.module_patterns import lookup_pattern
from trainer.config import TrainerConfig
from trainer.config.method import LORA_FAMILY, PROMPT_FAMILY
from trainer.errors import MethodError

Shape = tuple[int, int]
"""(in_features, out_features) of a linear layer."""

IA3_ATTENTION = ("k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value")
IA3_FEEDFORWARD = ("down_proj", "mlp.c_proj", "dense_4h_to_h")
"""Where IA3 acts by default (arXiv:2205.05638: keys, values, and the MLP's inner activation), by
the names that llama, mistral, qwen, gemma, phi, glm, gpt2, gpt-neox and bloom have for them."""


@dataclass(frozen=True, slots=True)
class BaseGeometry:
    """The sizes that prompt methods depend on: `key_width` is all key heads of one layer."""

    hidden: int
    num_layers: int
    key_width: int

    @classmethod
    def of(cls, model_config: Any) -> "BaseGeometry":
        """From a transformers config, whatever the architecture calls them."""
        text = model_config.get_text_config()
        heads = int(text.num_attention_heads)
        key_heads = int(getattr(text, "num_key_value_heads", None) or heads)
        head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        return cls(int(text.hidden_size), int(text.num_hidden_layers), key_heads * head_dim)


def match_modules(config: TrainerConfig, modules: Mapping[str, Shape]) -> dict[str, Shape]:
    """The linear modules that the method changes; none for prompt methods, all for full.

    Raises `MethodError` naming every target that matches nothing, and what there is.
    """
    if config.method in PROMPT_FAMILY:
        return {}
    if config.method == "full":
        return dict(modules)
    if config.method == "ia3":
        targets, _ = ia3_targets(config, modules)
        return {name: shape for name, shape in modules.items() if matches_any(name, targets)}
    lora = config.lora
    if lora.target_modules == "all-linear":
        matched = dict(modules)
    else:
        _all_match("lora.target_modules", lora.target_modules, modules, config.base)
        matched = {n: s for n, s in modules.items() if matches_any(n, lora.target_modules)}
    _all_match("lora.exclude_modules", lora.exclude_modules, modules, config.base)
    left = {n: s for n, s in matched.items() if not matches_any(n, lora.exclude_modules)}
    if not left:
        raise MethodError("lora.exclude_modules: nothing is left of lora.target_modules")
    return left


def ia3_targets(
    config: TrainerConfig, modules: Mapping[str, Shape]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(targets, those among them whose input is scaled) as parts of module names."""
    ia3 = config.ia3
    targets = ia3.target_modules
    if targets == "auto":
        known = (*IA3_ATTENTION, *IA3_FEEDFORWARD)
        targets = tuple(t for t in known if any(matches_any(name, (t,)) for name in modules))
        if not targets:
            raise MethodError(
                f"ia3.target_modules: {config.base} names its layers in an unknown way; give some "
                f"of {', '.join(_last_parts(modules))}"
            )
    else:
        _all_match("ia3.target_modules", targets, modules, config.base)
    feedforward = ia3.feedforward_modules
    if feedforward == "auto":
        return targets, tuple(
            t
            for t in targets
            if t in IA3_FEEDFORWARD or any(f.endswith(t) for f in IA3_FEEDFORWARD)
        )
    strangers = [name for name in feedforward if name not in targets]
    if strangers:
        raise MethodError(
            f"ia3.feedforward_modules: {', '.join(strangers)} must also be in ia3.target_modules, "
            f"which has {', '.join(targets)}"
        )
    return targets, feedforward


def rank_of(config: TrainerConfig, module: str) -> int:
    """The rank that `module` begins with, by `lora.rank_pattern` as PEFT reads it."""
    return lookup_pattern(config.lora.rank_pattern, module, config.rank)


def count_parameters(
    config: TrainerConfig, modules: Mapping[str, Shape], geometry: BaseGeometry
) -> int:
    """Trainable parameters of a method on these matched modules; not for method full."""
    method = config.method
    if method in LORA_FAMILY:
        dora = method == "dora" or config.lora.use_dora
        total = 0
        for name, (inputs, outputs) in modules.items():
            rank = rank_of(config, name)
            total += rank * (inputs + outputs) + outputs * dora + rank * (method == "adalora")
        return total
    if method == "ia3":
        _, feedforward = ia3_targets(config, modules)
        return sum(
            inputs if matches_any(name, feedforward) else outputs
            for name, (inputs, outputs) in modules.items()
        )
    assert method in PROMPT_FAMILY, method
    tokens, inner = config.prompt.num_virtual_tokens, config.prompt.encoder_hidden
    hidden = geometry.hidden
    if method == "prompt_tuning":
        return tokens * hidden
    if method == "p_tuning":
        inner = inner or hidden
        return tokens * hidden + (hidden + 1) * inner + (inner + 1) * inner + (inner + 1) * hidden
    width = 2 * geometry.num_layers * geometry.key_width
    if inner is None:
        return tokens * width
    token_dim = geometry.key_width
    return tokens * token_dim + (token_dim + 1) * inner + (inner + 1) * width


def matches_any(name: str, targets: Sequence[str]) -> bool:
    """PEFT's rule for a list of targets: the whole name, or its last parts."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _all_match(key: str, targets: Sequence[str], modules: Mapping[str, Shape], base: str) -> None:
    unmatched = [t for t in targets if not any(matches_any(name, (t,)) for name in modules)]
    if unmatched:
        raise MethodError(
            f"{key}: {', '.join(unmatched)} match no linear layer of {base}; it has "
            f"{', '.join(_last_parts(modules))}"
        )


def _last_parts(modules: Mapping[str, Shape]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in modules})
