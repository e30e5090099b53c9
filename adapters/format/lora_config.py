"""`adapter_config.json` of a LoRA or AdaLoRA adapter: what of it changes the function.

Field names and meanings are those of `peft.LoraConfig` and `peft.AdaLoraConfig` (PEFT 0.21).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.format.config_values import (
    base_reference,
    is_token_ids,
    module_targets,
    name_set,
    names_module,
    shown_value,
    token_table,
)
from adapters.format.module_patterns import PatternTable, pattern_table_problems

MAX_RANK = 65536
_MAX_MATCH_STEPS = 200_000_000
"""Of both pattern tables over all modules of an adapter: some seconds at the very most."""

_ADALORA_EPSILON = 1e-5
"""What PEFT adds to AdaLoRA's rank before it divides by it."""

# Key -> what it is called. A value that isn't empty, false or None asks for it.
_UNSERVED_FEATURES: Mapping[str, str] = {
    "layer_replication": "replicated layers",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo LoRA",
}

# These initialisations subtract something from the base weights, so that the factors alone are
# relative to another base than the published one.
_BASE_CHANGING_INITS = ("pissa", "corda", "olora", "mica", "loftq", "lora_ga")

_BIASES = ("none", "lora_only", "all")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of a LoRA or AdaLoRA config that says what the tensors mean.

    `invocation_token_ids` make it an activated LoRA (arXiv:2504.12397): it acts from their last
    occurrence in the prompt on. `token_ids` are the tokens with trained embeddings, by the module
    that holds them ("" means the input embedding). `modules_to_save` were trained in full.
    `target_parameters` are bare parameters with factors of their own, as of a layer's experts.
    """

    method: str
    rank: int
    alpha: float
    rank_pattern: PatternTable[int]
    alpha_pattern: PatternTable[float]
    use_rslora: bool
    use_dora: bool
    fan_in_fan_out: bool
    bias: str
    target_modules: frozenset[str] | str | None
    base_reference: str | None
    modules_to_save: frozenset[str] = frozenset()
    token_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    invocation_token_ids: tuple[int, ...] = ()
    target_parameters: frozenset[str] = frozenset()

    @property
    def is_adalora(self) -> bool:
        return self.method == "adalora"

    def rank_of(self, module: str) -> int | None:
        """The rank that the config gives `module`; None where AdaLoRA pruned as it liked."""
        if self.is_adalora:
            return None
        return self.rank_pattern.value(module, self.rank)

    def scaling_of(self, module: str) -> float:
        """alpha/r of `module`; alpha/sqrt(r) for rsLoRA (arXiv:2312.03732).

        AdaLoRA divides by the rank it began with, whatever was pruned.
        """
        if self.is_adalora:
            return self.alpha / (self.rank + _ADALORA_EPSILON)
        rank = self.rank_pattern.value(module, self.rank)
        alpha = self.alpha_pattern.value(module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether a list of target modules names `module`; true where it can't be told cheaply.

        A regular expression or a missing list is not evaluated: the tensors are what is applied.
        """
        if not isinstance(self.target_modules, frozenset):
            return True
        return names_module(self.target_modules, module)

    def wraps_parameters(self, module: str) -> bool:
        """Whether factors under this name are of a bare parameter (`target_parameters`).

        Such a module's parameters are nested: `module.base_layer` has the one that was wrapped
        first. Factors for all experts of a layer are one matrix, of several times the rank.
        """
        if not self.target_parameters:
            return False
        owners = {name.rpartition(".")[0] for name in self.target_parameters}
        if module.endswith(".base_layer") or names_module(frozenset(owners - {""}), module):
            return True
        return "" in owners and not self.targets(module)

    def matching_problem(self, modules: Iterable[str]) -> str | None:
        """Why asking `rank_of` and `scaling_of` about all of `modules` would take too long."""
        num_steps = 0
        for count, module in enumerate(modules, 1):
            num_steps += self.rank_pattern.num_steps(module)
            num_steps += self.alpha_pattern.num_steps(module)
            if num_steps > _MAX_MATCH_STEPS:
                return (
                    f"rank_pattern and alpha_pattern could take {num_steps} steps to match its "
                    f"first {count} modules; at most {_MAX_MATCH_STEPS}. Write the module names out"
                )
        return None

    def saves(self, module: str) -> bool:
        """Whether `module` was trained in full."""
        return names_module(self.modules_to_save, module)


def parse_lora_config(document: Mapping[str, Any], problems: list[str]) -> LoraConfig | None:
    """The config of a LoRA adapter, or None where a value is wrong; appends to `problems`."""
    problems += _unserved(document)
    wrong: list[str] = []
    for key in ("rank_pattern", "alpha_pattern"):
        wrong += pattern_table_problems(key, document.get(key) or {})
    if not wrong:
        wrong += _number_problems(document)
    wrong += _flag_problems(document)
    targets = module_targets(document, wrong)
    saved = name_set(document, "modules_to_save", wrong)
    parameters = name_set(document, "target_parameters", wrong)
    tokens = token_table(document, "trainable_token_indices", wrong)
    problems += wrong
    if wrong:
        return None
    return LoraConfig(
        method="lora",
        rank=document["r"],
        alpha=float(document["lora_alpha"]),
        rank_pattern=PatternTable(document.get("rank_pattern") or {}),
        alpha_pattern=PatternTable(
            {k: float(v) for k, v in (document.get("alpha_pattern") or {}).items()}
        ),
        use_rslora=bool(document.get("use_rslora")),
        use_dora=bool(document.get("use_dora")),
        fan_in_fan_out=bool(document.get("fan_in_fan_out")),
        bias=document.get("bias") or "none",
        target_modules=targets,
        base_reference=base_reference(document),
        modules_to_save=saved,
        token_ids=tokens,
        invocation_token_ids=tuple(document.get("alora_invocation_tokens") or ()),
        target_parameters=parameters,
    )


def parse_adalora_config(document: Mapping[str, Any], problems: list[str]) -> LoraConfig | None:
    """The config of an AdaLoRA adapter, or None where a value is wrong; appends to `problems`."""
    wrong: list[str] = []
    rank, alpha = document.get("init_r", 12), document.get("lora_alpha", 8)
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        wrong.append(
            f"init_r is {shown_value(rank)}; a rank is a whole number from 1 to {MAX_RANK}"
        )
    if not _is_alpha(alpha):
        wrong.append(
            f"lora_alpha is {shown_value(alpha)}; an alpha is a finite number other than 0"
        )
    wrong += _flag_problems(document)
    targets = module_targets(document, wrong)
    saved = name_set(document, "modules_to_save", wrong)
    problems += wrong
    if wrong:
        return None
    return LoraConfig(
        method="adalora",
        rank=rank,
        alpha=float(alpha) if alpha > 0 else float(rank),
        rank_pattern=PatternTable({}),
        alpha_pattern=PatternTable({}),
        use_rslora=False,
        use_dora=False,
        fan_in_fan_out=bool(document.get("fan_in_fan_out")),
        bias=document.get("bias") or "none",
        target_modules=targets,
        base_reference=base_reference(document),
        modules_to_save=saved,
    )


def _unserved(document: Mapping[str, Any]) -> list[str]:
    problems = [
        f"{key} is {shown_value(document[key])}: this asks for {title}, which isn't served"
        for key, title in _UNSERVED_FEATURES.items()
        if document.get(key)
    ]
    init = document.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS):
        problems.append(
            f"init_lora_weights is {shown_value(init)}, which changes the base weights: convert "
            "the adapter to plain LoRA (save_pretrained(path_initial_model_for_weight_conversion="
            "...))"
        )
    return problems


def _flag_problems(document: Mapping[str, Any]) -> list[str]:
    problems = [
        f"{key} is {shown_value(document[key])}; it must be true or false"
        for key in ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias")
        if not isinstance(document.get(key) or False, bool)
    ]
    bias = document.get("bias") or "none"
    if bias not in _BIASES:
        problems.append(f"bias is {shown_value(bias)}; it is one of {', '.join(_BIASES)}")
    invocation = document.get("alora_invocation_tokens")
    if invocation is not None and not is_token_ids(invocation):
        problems.append(
            f"alora_invocation_tokens is {shown_value(invocation)}; it must list token ids"
        )
    return problems


def _number_problems(document: Mapping[str, Any]) -> list[str]:
    ranks = {"r": document.get("r")}
    alphas = {"lora_alpha": document.get("lora_alpha")}
    ranks |= {f"rank_pattern[{k}]": v for k, v in (document.get("rank_pattern") or {}).items()}
    alphas |= {f"alpha_pattern[{k}]": v for k, v in (document.get("alpha_pattern") or {}).items()}
    problems = [
        f"{key} is {shown_value(value)}; a rank is a whole number from 1 to {MAX_RANK}"
        for key, value in ranks.items()
        if type(value) is not int or not 1 <= value <= MAX_RANK
    ]
    problems += [
        f"{key} is {shown_value(value)}; an alpha is a finite number other than 0"
        for key, value in alphas.items()
        if not _is_alpha(value)
    ]
    return problems


def _is_alpha(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # A whole number can be too large for a float.
    return value != 0 and -1e30 < value < 1e30
