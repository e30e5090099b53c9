"""`adapter_config.json` of a LoRA adapter: what of it changes the function, and what isn't served.

Field names and meanings are those of `peft.LoraConfig` (PEFT 0.21).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.bounded_json import read_json_object
from adapters.module_patterns import lookup_pattern, pattern_table_problems

MAX_CONFIG_BYTES = 4 << 20
MAX_RANK = 65536
_MAX_DEPTH = 16

SERVED_METHODS = ("LORA",)

# Key -> what it is called. A value that isn't empty, false or None asks for it.
_UNSERVED_FEATURES: Mapping[str, str] = {
    "use_dora": "DoRA",
    "modules_to_save": "fully trained modules",
    "lora_bias": "LoRA bias",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "LoRA on bare parameters",
    "layer_replication": "replicated layers",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo LoRA",
}

# These initialisations subtract something from the base weights, so that the factors alone are
# relative to another base than the published one.
_BASE_CHANGING_INITS = ("pissa", "corda", "olora", "mica", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of a LoRA config that says what the factors mean."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    fan_in_fan_out: bool
    target_modules: tuple[str, ...] | str | None
    base_reference: str | None

    def rank_of(self, module: str) -> int:
        """The rank that the config gives `module`."""
        return lookup_pattern(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str) -> float:
        """alpha/r of `module`, or alpha/sqrt(r) for rsLoRA (arXiv:2312.03732)."""
        rank = self.rank_of(module)
        alpha = lookup_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether a list of target modules names `module`; true where it can't be told cheaply.

        A regular expression or a missing list is not evaluated: the tensors are what is applied.
        """
        if not isinstance(self.target_modules, tuple):
            return True
        return any(
            module == target or module.endswith(f".{target}") for target in self.target_modules
        )


def read_adapter_config(path: Path) -> dict[str, Any]:
    """The JSON object of an `adapter_config.json`. Raises `DocumentError`."""
    return read_json_object(path, max_bytes=MAX_CONFIG_BYTES, max_depth=_MAX_DEPTH)


def parse_lora_config(document: Mapping[str, Any], problems: list[str]) -> LoraConfig | None:
    """The config, or None where it is not LoRA or has a wrong value; appends to `problems`."""
    method = document.get("peft_type")
    if not isinstance(method, str):
        problems.append("adapter_config.json has no peft_type: not a PEFT adapter")
        return None
    if method.upper() not in SERVED_METHODS:
        problems.append(
            f"the method {method[:40]} isn't served yet; served: {', '.join(SERVED_METHODS)}"
        )
        return None
    problems += _unserved(document)
    wrong: list[str] = []
    for key in ("rank_pattern", "alpha_pattern"):
        wrong += pattern_table_problems(key, document.get(key) or {})
    if not wrong:
        wrong += _number_problems(document)
    for key in ("use_rslora", "fan_in_fan_out"):
        if not isinstance(document.get(key) or False, bool):
            wrong.append(f"{key} is {_shown(document[key])}; it must be true or false")
    targets = document.get("target_modules")
    if isinstance(targets, list) and all(isinstance(item, str) for item in targets):
        targets = tuple(targets)
    elif targets is not None and not isinstance(targets, str):
        wrong.append("target_modules must be a list of module names or one regular expression")
    problems += wrong
    if wrong:
        return None
    base = document.get("base_model_name_or_path")
    return LoraConfig(
        rank=document["r"],
        alpha=float(document["lora_alpha"]),
        rank_pattern=document.get("rank_pattern") or {},
        alpha_pattern={k: float(v) for k, v in (document.get("alpha_pattern") or {}).items()},
        use_rslora=bool(document.get("use_rslora")),
        fan_in_fan_out=bool(document.get("fan_in_fan_out")),
        target_modules=targets,
        base_reference=base if isinstance(base, str) and base else None,
    )


def _unserved(document: Mapping[str, Any]) -> list[str]:
    problems = [
        f"{key} is {_shown(document[key])}: this asks for {title}, not served yet"
        for key, title in _UNSERVED_FEATURES.items()
        if document.get(key)
    ]
    bias = document.get("bias", "none")
    if bias not in ("none", None):
        problems.append(f"bias is {_shown(bias)}: trained biases aren't served yet; use 'none'")
    init = document.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_BASE_CHANGING_INITS):
        problems.append(
            f"init_lora_weights is {_shown(init)}, which changes the base weights: convert the "
            "adapter to plain LoRA (save_pretrained(path_initial_model_for_weight_conversion=...))"
        )
    return problems


def _number_problems(document: Mapping[str, Any]) -> list[str]:
    ranks = {"r": document.get("r")}
    alphas = {"lora_alpha": document.get("lora_alpha")}
    ranks |= {f"rank_pattern[{k}]": v for k, v in (document.get("rank_pattern") or {}).items()}
    alphas |= {f"alpha_pattern[{k}]": v for k, v in (document.get("alpha_pattern") or {}).items()}
    problems = [
        f"{key} is {_shown(value)}; a rank is a whole number from 1 to {MAX_RANK}"
        for key, value in ranks.items()
        if type(value) is not int or not 1 <= value <= MAX_RANK
    ]
    problems += [
        f"{key} is {_shown(value)}; an alpha is a finite number other than 0"
        for key, value in alphas.items()
        if not _is_alpha(value)
    ]
    return problems


def _is_alpha(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # A whole number can be too large for a float.
    return value != 0 and -1e30 < value < 1e30


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
