"""Keys that can't stand together, told for all of them at once.

Works on the document as it was written, so that it can speak even where single values are wrong:
values of the wrong type are passed over here and told by the schema.
"""

from collections.abc import Mapping
from typing import Any

from trainer.config import defaults
from trainer.config.evaluation import JUDGED
from trainer.config.objective import PreferenceSection
from trainer.config.written import is_changed, written_value
from trainer.methods.registry import METHOD_SECTIONS, METHODS, methods_reading

CONTRADICTION = "contradiction"
"""pydantic's type of the error that `TrainerConfig` raises for them."""


def contradictions(document: Mapping[str, Any]) -> list[str]:
    """One line for each pair of keys in `document` that excludes the other."""
    name = document.get("method", defaults.METHOD)
    if not isinstance(name, str):
        return []
    method = METHODS.get(name)
    return [
        *_sections(document, name),
        *(method.contradictions(document) if method else ()),
        *_evaluation(document),
        *_objective(document),
    ]


def _sections(document: Mapping[str, Any], name: str) -> list[str]:
    return [
        f"{section.name}: has no effect with method {name}; it is for {', '.join(readers)}"
        for section, readers in ((s, methods_reading(s)) for s in METHOD_SECTIONS)
        if section.name in document and name not in readers
    ]


_PREFERENCE_KEYS = {
    "loss": ("dpo",),
    "label_smoothing": ("dpo",),
    "sft_weight": ("dpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}


def _objective(document: Mapping[str, Any]) -> list[str]:
    objective = document.get("objective", "sft")
    row_format = written_value(document, "data", "format")
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
        if is_changed(document, "preference", PreferenceSection, key) and objective not in those
    ]
    smoothing = written_value(document, "preference", "label_smoothing")
    if (
        objective == "dpo"
        and smoothing
        and written_value(document, "preference", "loss") != "robust"
    ):
        problems.append("preference.label_smoothing: is for loss robust, as in TRL")
    if row_format not in (None, "auto", "preference"):
        problems.append(
            f"data.format: {row_format} rows have one answer, not what {objective} wants"
        )
    cleaning = written_value(document, "data", "cleaning")
    refused = (
        (
            "packing",
            written_value(document, "data", "packing") is True,
            "both answers are whole rows",
        ),
        (
            "streaming",
            written_value(document, "data", "streaming") is True,
            "rows are held in memory",
        ),
        (
            "over_length: truncate",
            written_value(document, "data", "over_length") == "truncate",
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
    metrics = written_value(document, "evaluation", "metrics")
    judge = written_value(document, "evaluation", "judge")
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
