"""Keys that are in the schema although their feature isn't there yet: they are refused.

Whoever lands a feature removes its line here, or adds its value to `ready`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Pending:
    """`ready` are the values that work; the default always does. `feature` is what is missing."""

    feature: str
    ready: tuple[object, ...] = ()


PENDING: Mapping[str, Pending] = {
    # methods
    "lora.bias": Pending("training the base's own biases"),
    # loop
    "training.attention": Pending("choosing the attention kernel"),
    # data and evaluation
    "data.format": Pending(
        "this format",
        ("instruction", "messages", "conversations", "prompt", "openorca", "ultrachat", "text"),
    ),
    "evaluation.metrics": Pending("these metrics"),
    "evaluation.max_rows": Pending("`trainer eval`"),
    "evaluation.answer_tokens": Pending("`trainer eval`"),
    "evaluation.language": Pending("`trainer eval`"),
    "evaluation.judge.url": Pending("the judge"),
    "evaluation.judge.model": Pending("the judge"),
    "evaluation.judge.api_key_env": Pending("the judge"),
    "evaluation.judge.questions": Pending("the judge"),
}


def pending_problems(document: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """One line for each key of `document` that asks for something that isn't there yet."""
    problems = []
    for key, value, default in _leaves(document, model, ""):
        pending = PENDING.get(key)
        if pending is None or value in (default, *pending.ready):
            continue
        ready = ", ".join(str(known) for known in dict.fromkeys((default, *pending.ready)))
        problems.append(
            f"{key}: {pending.feature} isn't there yet (it is {value!r}); "
            + (f"use {ready}" if pending.ready else "leave the key out")
        )
    return problems


def _leaves(
    document: Mapping[str, Any], model: type[BaseModel], prefix: str
) -> list[tuple[str, Any, Any]]:
    """(dotted key, value as written, default) of every key that the model knows."""
    leaves: list[tuple[str, Any, Any]] = []
    for name, value in document.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if isinstance(value, Mapping):
                leaves += _leaves(value, section, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            if isinstance(default, tuple):
                default = list(default)
            leaves.append((prefix + name, value, default))
    return leaves
