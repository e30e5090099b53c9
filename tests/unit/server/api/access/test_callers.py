"""What a key's patterns allow."""

from pathlib import Path

import pytest

from server.api.access.callers import ANYONE, NOBODY, Caller, CurrentCaller
from server.api.errors import PermissionDeniedError
from server.core.stack import BASE_STACK, AdapterStack, AdapterVersion, StackMember


def version(name: str, number: int = 1) -> AdapterVersion:
    return AdapterVersion(name, number, f"{name}{number}", 8, Path("none"))


def stack(*versions: AdapterVersion) -> AdapterStack:
    return AdapterStack(tuple(StackMember(v) for v in versions))


def caller(*patterns: str) -> Caller:
    return Caller("id", "me", adapters=patterns)


@pytest.mark.parametrize(
    ("patterns", "name", "number", "sees", "uses"),
    [
        (("sql",), "sql", 3, True, True),
        (("sql",), "sql-2", 1, False, False),
        (("sql*",), "sql-2", 1, True, True),
        (("*",), "anything", 9, True, True),
        (("sql@3",), "sql", 3, True, True),
        (("sql@3",), "sql", 4, True, False),
        (("s?l@*",), "sql", 4, True, True),
        (("base",), "base", 1, False, False),
        ((), "sql", 1, False, False),
        (("SQL",), "sql", 1, False, False),
    ],
)
def test_patterns(
    patterns: tuple[str, ...], name: str, number: int, sees: bool, uses: bool
) -> None:
    me = caller(*patterns)
    assert (me.may_see(name), me.may_use(version(name, number))) == (sees, uses)


def test_every_member_of_a_stack_must_be_allowed() -> None:
    me = caller("a", "b@2")
    me.check_stack(stack(version("a"), version("b", 2)))
    for refused in (stack(version("a"), version("c")), stack(version("b", 1)), BASE_STACK):
        with pytest.raises(PermissionDeniedError):
            me.check_stack(refused)
    caller("base").check_stack(BASE_STACK)
    ANYONE.check_stack(BASE_STACK)


def test_the_current_caller_is_nobody_outside_of_requests() -> None:
    current = CurrentCaller(NOBODY)
    with pytest.raises(PermissionDeniedError):
        current.get().check_base()
    with current.set(ANYONE):
        current.get().check_base()
    assert current.get() is NOBODY


@pytest.mark.parametrize(
    ("pattern", "name", "whole"),
    [
        ("sql", "sql", True),
        ("sql@*", "sql", True),
        ("sql@**", "sql", True),
        ("s*", "sql", True),
        ("*@*", "sql", True),
        ("sql@3", "sql", False),
        ("sql@?", "sql", False),
        ("sql@[0-9]*", "sql", False),
        ("sql", "sql/../b", False),
        ("s*", "sql/../b", False),
        ("s*", "sql b", False),
        ("base", "base", False),
    ],
)
def test_a_whole_name_takes_a_pattern_for_every_version(
    pattern: str, name: str, whole: bool
) -> None:
    me = caller(pattern)
    assert me.may_reach(name) is whole
    if whole:
        me.check_reference(name)
    else:
        with pytest.raises(PermissionDeniedError):
            me.check_reference(name)
    assert not me.covers_everything or pattern == "*@*"


@pytest.mark.parametrize(
    ("pattern", "reference", "reaches"),
    [
        ("sql@3", "sql@3", True),
        ("sql@3", "sql@03", False),
        ("sql@3", "sql@33", False),
        ("sql@3*", "sql@33", True),
        ("sql", "sql@999999999", True),
        ("s*@1", "sql@1", True),
        ("s*1", "sql@1", False),
        ("*", "sql@1", True),
        ("sql[@]3", "sql@3", False),
        ("sql@3", "sql@3@3", False),
    ],
)
def test_a_version_is_reached_by_its_own_number(
    pattern: str, reference: str, reaches: bool
) -> None:
    assert caller(pattern).may_reach(reference) is reaches
