"""Keys that can't stand together, told for all of them at once.

Works on the document as it was written, so that it can speak even where single values are wrong:
values of the wrong type are passed over here and told by the schema.
"""

from collections.abc import Mapping
from typing import Any

from trainer import defaults
from trainer.config.evaluation import JUDGED
from trainer.config.method import (
    LORA_FAMILY,
    PROMPT_FAMILY,
    QUANTIZATION_INITS,
    SECTION_METHODS,
    LoraSection,
    PromptSection,
)
from trainer.config.objective import PreferenceSection
from trainer.config.section import Section

CONTRADICTION = "contradiction"
"""pydantic's type of the error that `TrainerConfig` raises for them."""


def contradictions(document: Mapping[str, Any]) -> list[str]:
    """One line for each pair of keys in `document` that excludes the other."""
    method = document.get("method", "qlora")
    if not isinstance(method, str):
        return []
    return [
        *_sections(document, method),
        *_quantization(document, method),
        *_lora(document, method),
        *_adalora(document, method),
        *_prompt(document, method),
        *_evaluation(document),
        *_objective(document),
    ]


def _sections(document: Mapping[str, Any], method: str) -> list[str]:
    return [
        f"{section}: has no effect with method {method}; it is for {', '.join(sorted(methods))}"
        for section, methods in SECTION_METHODS.items()
        if section in document and method not in methods
    ]


def _quantization(document: Mapping[str, Any], method: str) -> list[str]:
    if "quantization" not in document:
        return []
    if method == "lora":
        return [
            "method lora trains on the unquantised base, so quantization has no effect; "
            "remove it, or use method qlora"
        ]
    if method == "full":
        return ["method full trains the base's own weights: quantization can't be given"]
    if method == "qlora" and _get(document, "quantization", "scheme") == "none":
        return ["quantization.scheme: none makes method qlora plain lora; write method: lora"]
    return []


def _lora(document: Mapping[str, Any], method: str) -> list[str]:
    if method not in LORA_FAMILY:
        return []
    problems = []
    init = _get(document, "lora", "init")
    dora = method == "dora" or _get(document, "lora", "use_dora") is True
    taken_out = isinstance(init, str) and init.startswith(("pissa", "olora", "corda"))
    changed = taken_out or init in QUANTIZATION_INITS
    if changed and dora:
        problems.append(
            f"lora.init: {init} starts with a B that isn't zero, and DoRA's magnitudes are those "
            "of the plain base; use default"
        )
    if taken_out and _changed(document, "lora", LoraSection, "bias"):
        problems.append(
            f"lora.bias: {init} trains beside a second adapter, and PEFT trains biases with one; "
            "use none"
        )
    if method == "adalora":
        if init not in (None, "default"):
            problems.append(f"lora.init: {init} has no effect with method adalora")
        problems += [
            f"lora.{key}: has no effect with method adalora{hint}"
            for key, hint in (
                ("r", "; see adalora.init_r and adalora.target_r"),
                ("rank_pattern", ", which finds the ranks itself"),
                ("alpha_pattern", ""),
                ("use_dora", ""),
                ("use_rslora", ""),
                ("lr_ratio", ""),
            )
            if _changed(document, "lora", LoraSection, key)
        ]
    quantized = method != "lora" and _get(document, "quantization", "scheme") != "none"
    if init == "orthogonal" and quantized:
        problems.append(
            "lora.init: PEFT's orthogonal start needs an unquantised base; use method lora"
        )
    if init in QUANTIZATION_INITS and not quantized:
        problems.append(
            f"lora.init: {init} makes up for the quantisation of the base, and this base isn't "
            "quantised; use default"
        )
    return problems


def _adalora(document: Mapping[str, Any], method: str) -> list[str]:
    if method != "adalora":
        return []
    init_r, target_r = (_get(document, "adalora", key) for key in ("init_r", "target_r"))
    init_r = defaults.ADALORA_INIT_RANK if init_r is None else init_r
    target_r = defaults.ADALORA_TARGET_RANK if target_r is None else target_r
    if isinstance(init_r, int) and isinstance(target_r, int) and target_r >= init_r:
        return [f"adalora.target_r: {target_r} must be below adalora.init_r, which is {init_r}"]
    return []


def _prompt(document: Mapping[str, Any], method: str) -> list[str]:
    if method not in PROMPT_FAMILY:
        return []
    problems = []
    if _get(document, "data", "packing") is True:
        problems.append(
            f"data.packing: the virtual tokens of {method} stand before a whole sequence, so rows "
            "can't share one; leave it off"
        )
    wanted: dict[str, tuple[str, ...]] = {
        "init_text": ("prompt_tuning",),
        "encoder_hidden": ("p_tuning", "prefix_tuning"),
    }
    problems += [
        f"prompt.{key}: has no effect with method {method}; it is for {', '.join(methods)}"
        for key, methods in wanted.items()
        if _changed(document, "prompt", PromptSection, key) and method not in methods
    ]
    return problems


_PREFERENCE_KEYS = {
    "loss": ("dpo",),
    "label_smoothing": ("dpo",),
    "sft_weight": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}


def _objective(document: Mapping[str, Any]) -> list[str]:
    objective = document.get("objective", "sft")
    row_format = _get(document, "data", "format")
    if objective == "sft":
        problems = []
        if "preference" in document:
            problems.append(
                "preference: has no effect with objective sft; it is for dpo, orpo, kto"
            )
        if row_format == "preference":
            problems.append("data.format: preference rows are for objectives dpo, orpo, kto")
        return problems
    problems = [
        f"preference.{key}: has no effect with objective {objective}; it is for {', '.join(those)}"
        for key, those in _PREFERENCE_KEYS.items()
        if _changed(document, "preference", PreferenceSection, key) and objective not in those
    ]
    smoothing = _get(document, "preference", "label_smoothing")
    if objective == "dpo" and smoothing and _get(document, "preference", "loss") != "robust":
        problems.append("preference.label_smoothing: is for loss robust, as in TRL")
    if row_format not in (None, "auto", "preference"):
        problems.append(
            f"data.format: {row_format} rows have one answer, not what {objective} wants"
        )
    cleaning = _get(document, "data", "cleaning")
    refused = (
        ("packing", _get(document, "data", "packing") is True, "both answers are whole rows"),
        ("streaming", _get(document, "data", "streaming") is True, "rows are held in memory"),
        (
            "over_length: truncate",
            _get(document, "data", "over_length") == "truncate",
            "a cut answer would be compared with a whole one; use drop or fail",
        ),
        (
            "cleaning.roles: repair",
            isinstance(cleaning, Mapping) and cleaning.get("roles") == "repair",
            "a cut row would end with another answer than the judged one; use drop",
        ),
    )
    return problems + [
        f"data.{key}: not with objective {objective}: {reason}"
        for key, is_asked, reason in refused
        if is_asked
    ]


def _evaluation(document: Mapping[str, Any]) -> list[str]:
    metrics = _get(document, "evaluation", "metrics")
    judge = _get(document, "evaluation", "judge")
    judge = judge if isinstance(judge, Mapping) else {}
    names = metrics if isinstance(metrics, list | tuple | str) else ()
    asked = [name for name in JUDGED if name in names]
    if asked:
        return [
            f"evaluation.judge.{key}: missing; evaluation.metrics has {asked[0]} in it"
            for key in ("url", "model")
            if judge.get(key) is None
        ]
    either = " or ".join(JUDGED)
    return [
        f"evaluation.judge.{key}: has no effect without {either} in evaluation.metrics"
        for key in ("url", "model", "questions")
        if judge.get(key) is not None
    ]


def _changed(document: Mapping[str, Any], section: str, model: type[Section], key: str) -> bool:
    """Whether the key is given and isn't at its default, which a written-out config repeats."""
    default = model.model_fields[key].get_default(call_default_factory=True)
    return _get(document, section, key) not in (None, default)


def _get(document: Mapping[str, Any], section: str, key: str) -> Any:
    inner = document.get(section)
    return inner.get(key) if isinstance(inner, Mapping) else None
