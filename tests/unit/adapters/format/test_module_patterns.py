import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.format import module_patterns
from adapters.format.config_values import names_module
from adapters.format.module_patterns import (
    PatternTable,
    expression_problem,
    pattern_table_problems,
)

_PARTS = ("model", "layers", "0", "10", "q_proj", "up_proj", "q", "proj")
_NAMES = st.lists(st.sampled_from(_PARTS), min_size=1, max_size=5).map(".".join)
_PATTERNS = st.one_of(
    _NAMES,
    st.sampled_from(
        ["q.proj", "q_proj|up_proj", r"layers\.\d+\.q_proj", ".*q", "^model.q", "(q|up)_proj", "."]
    ),
)


def _as_peft(table: Mapping[str, int], module: str) -> int:
    """`peft.utils.other.get_pattern_key`, in its words."""
    for pattern, value in table.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return -1


@given(st.lists(_PATTERNS, max_size=8, unique=True), st.lists(_NAMES, min_size=1, max_size=8))
def test_the_first_pattern_that_ends_a_name_counts(patterns: list[str], modules: list[str]) -> None:
    table = {pattern: place for place, pattern in enumerate(patterns)}
    assert pattern_table_problems("rank_pattern", table) == []
    ready = PatternTable(table)
    for module in modules:
        assert ready.value(module, -1) == _as_peft(table, module)


def test_a_pattern_is_compiled_once_and_a_name_never(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    plain = re.compile

    def counted(pattern: str) -> re.Pattern[str]:
        compiled.append(pattern)
        return plain(pattern)

    names = {f"layers.{layer}.q_proj": layer for layer in range(1000)}
    with monkeypatch.context() as patched:
        patched.setattr(module_patterns.re, "compile", counted)
        table = PatternTable(names | {r".*\.up_proj": 7})
        found = [table.value(f"model.layers.{layer}.q_proj", -1) for layer in range(1000)]
    assert found == list(range(1000))
    assert table.value("model.layers.3.up_proj", -1) == 7
    assert len(compiled) == 1
    # A name costs one look for each place where it may begin, however many there are.
    assert PatternTable(names).num_steps("model.layers.999.q_proj") < 1000


@pytest.mark.parametrize(
    "pattern",
    [
        "a?" * 60 + "a" * 60,
        "(a|aa)" * 30 + "b",
        r"(a\\+)*",
        r"\\*\\*\\*x",
        "(x.*)?" * 3,
        "a{4294967295}",
        "(" * 120 + ")" * 120 + "|" * 20,
    ],
)
def test_what_could_match_for_ever_is_refused_unmatched(pattern: str) -> None:
    (problem,) = pattern_table_problems("rank_pattern", {pattern: 1})
    assert "the pattern" in problem


def test_many_cheap_patterns_are_dear_together() -> None:
    table = {f".*a.*{number}": 1 for number in range(1000)}
    (problem,) = pattern_table_problems("rank_pattern", table)
    assert "its patterns together could take" in problem
    assert "Write the module names out" in problem


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "isn't a regular expression"),
        ("*q_proj", "isn't a regular expression"),
        ("a{4294967296}", "isn't a regular expression"),
        ("(" * 200 + ")" * 200, "200 groups; at most 128"),
        ("x" * 5000, "5000 characters; at most 4096"),
        (r"(?:.*?(?:language|text).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.q)", None),
        ("(a+)+$", None),  # dear, and never evaluated
        ("all-linear", None),
    ],
)
def test_target_modules_as_one_expression(pattern: str, reason: str | None) -> None:
    problem = expression_problem(pattern)
    assert problem is None if reason is None else problem is not None and reason in problem


class _CountedSet(frozenset[str]):
    asked = 0

    def __contains__(self, item: object) -> bool:
        type(self).asked += 1
        return super().__contains__(item)

    def __iter__(self) -> None:  # type: ignore[override]
        raise AssertionError("nobody may look through all names")


def test_a_name_is_looked_up_by_its_endings() -> None:
    names = _CountedSet(f"m{number}" for number in range(100_000)) | {"q_proj", "a.b"}
    counted = _CountedSet(names)
    assert names_module(counted, "model.layers.0.q_proj")
    assert names_module(counted, "a.b")
    assert names_module(counted, "x.a.b")
    assert not names_module(counted, "xa.b")
    assert not names_module(counted, "model.layers.0.xq_proj")
    assert _CountedSet.asked <= 13
