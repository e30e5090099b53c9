"""From a YAML file and `--key value` overrides to a `TrainerConfig`; all problems at once."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainer.config import TrainerConfig
from trainer.config.contradictions import CONTRADICTION, contradictions
from trainer.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML with `2e-4` as a number (YAML 1.1 wants `2.0e-4`) and repeated keys refused."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError([f"{key}: given twice (line {key_node.start_mark.line + 1})"])
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+"),
    list("-+0123456789"),
)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A config and the folder that its data paths are relative to."""

    config: TrainerConfig
    folder: Path

    def data_path(self, text: str) -> Path:
        """A path of the `data` section as it is on this machine."""
        return self.folder / Path(text).expanduser()


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read `path`, apply `--key value` pairs such as `--training.epochs 3`, and validate.

    Raises `ConfigError` with every problem that was found: unknown keys (with the nearest known
    one), wrong types, values out of range, keys that exclude each other, overrides that don't
    parse.
    """
    document = _read(path)
    problems = _apply(document, overrides)
    config: TrainerConfig | None = None
    try:
        config = TrainerConfig.model_validate(document)
    except ValidationError as error:
        problems += _explain_all(error)
    problems += contradictions(document)
    if problems or config is None:
        raise ConfigError(problems)
    return LoadedConfig(config, path.resolve().parent)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"no config file {path}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} can't be read: {error}"]) from None
    document = _parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise ConfigError([f"{path} must hold keys and values, not {type(document).__name__}"])
    return document


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError([f"{source}{where} is not YAML: {reason}"]) from None


def _apply(document: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Write the overrides into `document`; returns what was wrong with them."""
    problems: list[str] = []
    words = list(overrides)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            problems.append(f"{word!r} is not an override; write --key value, e.g. --lora.r 8")
            continue
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                problems.append(f"{word} has no value; write {word} VALUE")
                continue
            text = words.pop(0)
        try:
            value = _parse_yaml(text, word)
        except ConfigError as error:
            problems += error.problems
            continue
        problems += _assign(document, key.replace("-", "_").split("."), value)
    return problems


def _assign(document: dict[str, Any], keys: Sequence[str], value: Any) -> list[str]:
    *parents, last = keys
    for depth, key in enumerate(parents):
        child = document.setdefault(key, {})
        if not isinstance(child, dict):
            return [f"--{'.'.join(keys)}: {'.'.join(keys[: depth + 1])} has no keys under it"]
        document = child
    document[last] = value
    return []


def _explain_all(error: ValidationError) -> list[str]:
    """One line for each key: a union reports one error for each of its members."""
    lines: dict[str, str] = {}
    for details in error.errors():
        if details["type"] == CONTRADICTION:
            continue  # told from the document, where they come out even beside wrong values
        location = [part for part in details["loc"] if isinstance(part, str)]
        key = _dotted(location)
        line = _explain(details)
        lines[key or line] = f"{lines[key]}; or {line}" if key and key in lines else line
    return list(lines.values())


def _explain(details: ErrorDetails) -> str:
    location = [part for part in details["loc"] if isinstance(part, str)]
    key = _dotted(location)
    if details["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(location)}"
    if details["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = details["msg"].removeprefix("Value error, ")
    if not key:
        return message
    given = details["input"]
    shown = "" if isinstance(given, Mapping) else f" (it is {given!r})"
    return f"{key}: {message[0].lower() + message[1:]}{shown}"


def _dotted(location: Sequence[str]) -> str:
    """The key as written; pydantic adds the names of union members, which are no keys."""
    parts: list[str] = []
    model: type[BaseModel] | None = TrainerConfig
    for part in location:
        parts.append(part)
        field = model.model_fields.get(part) if model is not None else None
        model = _section(field.annotation) if field is not None else None
        if model is None:
            break
    return ".".join(parts)


def _nearest(location: Sequence[str]) -> str:
    model: type[BaseModel] = TrainerConfig
    for part in location[:-1]:
        section = _section(model.model_fields[part].annotation)
        if section is None:
            return ""
        model = section
    prefix = "".join(f"{part}." for part in location[:-1])
    here = difflib.get_close_matches(location[-1], model.model_fields, n=1)
    if here:
        return f"; did you mean {prefix}{here[0]}?"
    elsewhere = [name for name in all_keys() if name.rsplit(".", 1)[-1] == location[-1]]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; there are: {', '.join(prefix + name for name in model.model_fields)}"


def all_keys() -> tuple[str, ...]:
    """Every key of the config, dotted, in the order of the schema."""

    def walk(model: type[BaseModel], prefix: str) -> list[str]:
        keys: list[str] = []
        for name, field in model.model_fields.items():
            section = _section(field.annotation)
            if section is None:
                keys.append(prefix + name)
            else:
                keys += walk(section, f"{prefix}{name}.")
        return keys

    return tuple(walk(TrainerConfig, ""))


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
