"""A first config with a comment on every key, and a few rows to go with it."""

import json
from typing import Any

import yaml
from pydantic import BaseModel

from trainer.config import Method, TrainerConfig
from trainer.methods.registry import METHODS, sections_unused_by

EXAMPLE_FILE = "train.jsonl"
_WIDTH = 28
_QUESTIONS = (
    ("What is the capital of France?", "Paris"),
    ("How many days has a week?", "Seven"),
    ("What colour is the sky?", "Blue"),
    ("Which animal says meow?", "A cat"),
    ("What do bees make?", "Honey"),
    ("What is two plus three?", "Five"),
    ("What is frozen water called?", "Ice"),
    ("What follows after Monday?", "Tuesday"),
    ("Which planet do we live on?", "Earth"),
    ("What is the opposite of hot?", "Cold"),
    ("Who wrote Hamlet?", "Shakespeare"),
    ("水的化学式是什么?", "H2O"),
    ("中国的首都是哪里?", "北京"),
)


def starter_config(method: Method, *, name: str, base: str, data: str) -> str:
    """YAML that loads: what must be given, and every other key with its default, commented out."""
    given = {"name": name, "base": base, "method": method}
    lines = [
        "## A training run. A line that begins with one # shows a default: take away its # and",
        "## that of the section above it to change it.",
        "##   trainer check THIS_FILE      what can be known before step 1",
        "##   trainer run THIS_FILE        train, measure, publish",
        "",
    ]
    lines += [
        _line(key, value, TrainerConfig.model_fields[key].description)
        for key, value in given.items()
    ]
    skipped = sections_unused_by(method)
    skipped.add("preference")  # it excludes the default objective
    for key, field in TrainerConfig.model_fields.items():
        if key in given or key in skipped:
            continue
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            lines += _key(key, field, "", {})
            continue
        inner = _section(section, f"{key}.", {"data.train": data}, method)
        if inner:
            head = f"{key}:" if key == "data" else f"#{key}:"
            lines += ["", _with_comment(head, field.description), *inner]
    return "\n".join(lines) + "\n"


def example_rows() -> str:
    """JSON lines of a few questions with overly polite answers: enough to try everything out."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"{answer}. A pleasure to tell you!"},
            ]
        }
        for question, answer in _QUESTIONS
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _section(
    section: type[BaseModel], prefix: str, given: dict[str, str], method: Method
) -> list[str]:
    indent = "  " * prefix.count(".")
    lines: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            below = _section(inner, f"{prefix}{name}.", given, method)
            if below:
                lines += [_with_comment(f"#{indent}{name}:", field.description), *below]
        elif f"{prefix}{name}" not in METHODS[method].ignored_keys:
            lines += _key(f"{prefix}{name}", field, indent, given)
    return lines


def _key(key: str, field: Any, indent: str, given: dict[str, str]) -> list[str]:
    name = key.rsplit(".", 1)[-1]
    if key in given:
        return [_line(f"{indent}{name}", given[key], field.description)]
    default = field.get_default(call_default_factory=True)
    return [_line(f"#{indent}{name}", default, field.description)]


def _line(key: str, value: Any, description: str | None) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return _with_comment(f"{key}: {text.removesuffix('...' + chr(10)).strip()}", description)


def _with_comment(text: str, description: str | None) -> str:
    return f"{text:<{_WIDTH}}  # {description}" if description else text
