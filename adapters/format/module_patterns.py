"""PEFT's `rank_pattern` and `alpha_pattern`: which value of a pattern table holds for a module.

A pattern is a regular expression that ends the module's name; the first that matches counts
(`peft.utils.other.get_pattern_key`). They come from strangers, so those that could take
exponential time to match are refused.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")

MAX_PATTERNS = 4096
_MAX_PATTERN_LENGTH = 256
_MAX_REPEATS = 2
_REPEAT = re.compile(r"(?<!\\)[*+{]")
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")


def pattern_table_problems(key: str, table: Any) -> list[str]:
    """What is wrong with the keys of a pattern table named `key`."""
    if not isinstance(table, dict):
        return [f"{key} must map module patterns to numbers, not be {type(table).__name__}"]
    if len(table) > MAX_PATTERNS:
        return [f"{key} has {len(table)} patterns; at most {MAX_PATTERNS}"]
    problems = []
    for pattern in table:
        if (reason := _pattern_problem(pattern)) is not None:
            problems.append(f"{key}: the pattern {pattern[:80]!r} {reason}")
    return problems


def lookup_pattern(table: Mapping[str, _T], module: str, default: _T) -> _T:
    """The value of the first pattern in `table` that matches `module`, else `default`."""
    for pattern, value in table.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _pattern_problem(pattern: str) -> str | None:
    if len(pattern) > _MAX_PATTERN_LENGTH:
        return f"has {len(pattern)} characters; at most {_MAX_PATTERN_LENGTH}"
    if len(_REPEAT.findall(pattern)) > _MAX_REPEATS or _REPEATED_GROUP.search(pattern):
        return (
            f"repeats a group, or has more than {_MAX_REPEATS} of * + {{, and could take forever "
            "to match; write the module names out"
        )
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        return f"isn't a regular expression: {error}"
    return None
