"""PEFT's `rank_pattern` and `alpha_pattern`: which value of a pattern table holds for a module.

A pattern is a regular expression that ends the module's name; the first that matches counts
(`peft.utils.other.get_pattern_key`). They come from strangers: what could take long to match is
refused, here where it would for any module, and by an inspection (`num_steps`) where it would for
the modules that are there. Most patterns are names written out, and those are looked up.
"""

import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

MAX_PATTERNS = 4096
MAX_PATTERN_LENGTH = 256
MAX_EXPRESSION_LENGTH = 4096
"""Of `target_modules` as one regular expression, which is compiled and never evaluated."""

_MAX_REPEATS = 2
_MAX_GROUPS = 128
"""Deeper ones than Python's compiler takes can't be made of so few."""

_MAX_TABLE_STEPS = 1_000_000
"""Of a module that is named as real ones are, over all patterns of a table: some milliseconds."""

_USUAL_LENGTH, _USUAL_PARTS = 64, 8
_LOOKUP_STEPS = 100
"""What a match costs before its first step."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)[*+{]")


class PatternTable(Generic[_T]):
    """The values of one checked table (`pattern_table_problems`), made ready once."""

    def __init__(self, values: Mapping[str, _T]) -> None:
        self._values = tuple(values.values())
        # Length -> where its dots are -> name -> place in the table. A dot stands for any
        # character, so the text at those places doesn't count.
        self._names: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}
        self._expressions: list[tuple[int, re.Pattern[str], str]] = []
        for place, pattern in enumerate(values):
            if _NAME.fullmatch(pattern):
                dots = tuple(at for at, letter in enumerate(pattern) if letter == ".")
                names = self._names.setdefault(len(pattern), {}).setdefault(dots, {})
                names[pattern] = place
            else:
                self._expressions.append((place, _compiled(pattern), pattern))

    def value(self, module: str, default: _T) -> _T:
        """The value of the first pattern that matches `module`, else `default`."""
        place = len(self._values)
        for begin in _beginnings(module):
            ending = module[begin:]
            for dots, names in self._names.get(len(ending), {}).items():
                place = min(place, names.get(_with_dots(ending, dots), place))
        for at, expression, _ in self._expressions:
            if at >= place:
                break
            if expression.match(module):
                place = at
        return self._values[place] if place < len(self._values) else default

    def num_steps(self, module: str) -> int:
        """About how many steps `value` takes at most."""
        begins = _beginnings(module)
        lookups = sum(len(self._names.get(len(module) - begin, ())) for begin in begins)
        return _LOOKUP_STEPS * (1 + lookups) + sum(
            _match_steps(pattern, len(module), len(begins)) for _, _, pattern in self._expressions
        )


def pattern_table_problems(key: str, table: Any) -> list[str]:
    """What is wrong with the keys of a pattern table named `key`."""
    if not isinstance(table, dict):
        return [f"{key} must map module patterns to numbers, not be {type(table).__name__}"]
    if len(table) > MAX_PATTERNS:
        return [f"{key} has {len(table)} patterns; at most {MAX_PATTERNS}"]
    problems = []
    num_steps = 0
    for pattern in table:
        if (reason := _pattern_problem(pattern)) is not None:
            problems.append(f"{key}: the pattern {pattern[:80]!r} {reason}")
        elif not _NAME.fullmatch(pattern):
            num_steps += _match_steps(pattern, _USUAL_LENGTH, _USUAL_PARTS)
    if num_steps > _MAX_TABLE_STEPS and not problems:
        problems.append(
            f"{key}: its patterns together could take {num_steps} steps to match one module; at "
            f"most {_MAX_TABLE_STEPS}. Write the module names out"
        )
    return problems


def expression_problem(pattern: str) -> str | None:
    """Why `target_modules` can't be this regular expression. It isn't evaluated."""
    if len(pattern) > MAX_EXPRESSION_LENGTH:
        return f"has {len(pattern)} characters; at most {MAX_EXPRESSION_LENGTH}"
    return _compile_problem(pattern)


def _pattern_problem(pattern: str) -> str | None:
    if len(pattern) > MAX_PATTERN_LENGTH:
        return f"has {len(pattern)} characters; at most {MAX_PATTERN_LENGTH}"
    if _num_repeats(pattern) > _MAX_REPEATS or _REPEATED_GROUP.search(_unescaped(pattern)):
        return (
            f"repeats a group, or has more than {_MAX_REPEATS} of * + {{, and could take forever "
            "to match; write the module names out"
        )
    if _match_steps(pattern, _USUAL_LENGTH, _USUAL_PARTS) > _MAX_TABLE_STEPS:
        return (
            "has so many alternatives (| and ?) that it could take forever to match; write the "
            "module names out"
        )
    return _compile_problem(pattern)


def _compile_problem(pattern: str) -> str | None:
    num_groups = _unescaped(pattern).count("(")
    if num_groups > _MAX_GROUPS:
        return f"has {num_groups} groups; at most {_MAX_GROUPS}"
    try:
        _compiled(pattern)
    except (re.error, OverflowError) as error:
        return f"isn't a regular expression: {error}"
    return None


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _beginnings(module: str) -> list[int]:
    """Where an ending of `module` that a pattern may match begins."""
    return [0, *(at + 1 for at, letter in enumerate(module) if letter == ".")]


def _with_dots(ending: str, dots: tuple[int, ...]) -> str:
    letters = list(ending)
    for at in dots:
        letters[at] = "."
    return "".join(letters)


def _unescaped(pattern: str) -> str:
    """`pattern` without what a backslash takes the meaning from."""
    return _ESCAPE.sub("_", pattern)


def _num_repeats(pattern: str) -> int:
    return sum(_unescaped(pattern).count(letter) for letter in "*+{")


def _match_steps(pattern: str, length: int, num_parts: int) -> int:
    """At most so many ways to match a name of `length` characters in `num_parts` parts.

    Each repeat can end anywhere, each `?` be there or not, and of the alternatives one can be taken
    in each group: most ways when all groups have as many.
    """
    text = _unescaped(pattern)
    num_groups = text.count("(") + 1
    alternatives = (-(-text.count("|") // num_groups) + 1) ** num_groups
    if text.count("|") < num_groups:
        alternatives = 2 ** text.count("|")
    ways: int = length ** _num_repeats(pattern) * 2 ** text.count("?") * alternatives
    return _LOOKUP_STEPS + num_parts * ways
