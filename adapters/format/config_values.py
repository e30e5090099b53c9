"""Values of an `adapter_config.json` that several methods share, checked as they are read."""

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Any

from adapters.format.module_patterns import expression_problem

MAX_MODULE_NAMES = 65536
"""In one list of a config: more than the linears of any model that is served here."""

_MAX_TOKEN_TABLES = 64
_MAX_TOKEN_ID = 1 << 31
_MAX_TOKENS = 1 << 20


def shown_value(value: Any) -> str:
    """`value` for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def is_token_ids(value: Any) -> bool:
    """Whether `value` is a list of at least one token id."""
    return (
        isinstance(value, list)
        and 0 < len(value) <= _MAX_TOKENS
        and all(type(item) is int and 0 <= item < _MAX_TOKEN_ID for item in value)
    )


def whole_number(
    document: Mapping[str, Any], key: str, problems: list[str], *, at_most: int
) -> int | None:
    """A number from 1 to `at_most`; None, and a problem, for anything else."""
    value = document.get(key)
    if type(value) is int and 1 <= value <= at_most:
        return value
    problems.append(f"{key} is {shown_value(value)}; it is a whole number from 1 to {at_most}")
    return None


def name_set(document: Mapping[str, Any], key: str, problems: list[str]) -> frozenset[str]:
    """A list of names, empty when it is missing."""
    value = document.get(key) or []
    if not _are_names(value):
        problems.append(f"{key} is {shown_value(value)}; it must be a list of names")
        return frozenset()
    if len(value) > MAX_MODULE_NAMES:
        problems.append(f"{key} lists {len(value)} names; at most {MAX_MODULE_NAMES}")
        return frozenset()
    return frozenset(value)


def module_targets(document: Mapping[str, Any], problems: list[str]) -> frozenset[str] | str | None:
    """`target_modules`: names, one regular expression, or nothing."""
    targets = document.get("target_modules")
    if _are_names(targets):
        return name_set(document, "target_modules", problems)
    if isinstance(targets, str):
        if (reason := expression_problem(targets)) is not None:
            problems.append(f"target_modules: {shown_value(targets)} {reason}")
        return targets
    if targets is not None:
        problems.append("target_modules must be a list of module names or one regular expression")
    return None


def token_table(
    document: Mapping[str, Any], key: str, problems: list[str]
) -> Mapping[str, tuple[int, ...]]:
    """Token ids by the module that holds their embeddings; a plain list has the module ""."""
    value = document.get(key)
    if not value:
        return MappingProxyType({})
    table = value if isinstance(value, dict) else {"": value}
    if len(table) > _MAX_TOKEN_TABLES:
        problems.append(f"{key} names {len(table)} modules; at most {_MAX_TOKEN_TABLES}")
        return MappingProxyType({})
    for ids in table.values():
        if not is_token_ids(ids):
            problems.append(f"{key} has {shown_value(ids)}; it must list token ids")
        elif len(set(ids)) != len(ids):
            problems.append(f"{key} names a token twice")
    return MappingProxyType(
        {module: tuple(ids) for module, ids in table.items() if is_token_ids(ids)}
    )


def names_module(names: Container[str], module: str) -> bool:
    """Whether one of `names` is `module` or its ending, as PEFT matches names.

    Asks `names` once for each part of `module`, so a set of any size answers at once.
    """
    ending = module
    while ending not in names:
        _, dot, ending = ending.partition(".")
        if not dot:
            return False
    return True


def base_reference(document: Mapping[str, Any]) -> str | None:
    """The base model that the config names."""
    base = document.get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
