import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import AdapterError, InvalidStackError
from adapters.names import NAME_PATTERN, AdapterRef
from adapters.stack import MAX_TERMS, StackTerm, format_stack, parse_stack

_NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
_VERSIONS = st.none() | st.integers(1, 999_999_999)
_SCALES = st.floats(allow_nan=False, allow_infinity=False)
_STACKS = st.lists(
    st.tuples(_NAMES, _VERSIONS, _SCALES), min_size=1, max_size=6, unique_by=lambda term: term[0]
)


def test_the_example_of_the_design() -> None:
    assert parse_stack("sql:0.7+polite@2:-0.3") == (
        StackTerm(AdapterRef("sql"), 0.7),
        StackTerm(AdapterRef("polite", 2), -0.3),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sql", "sql"),
        ("sql@3", "sql@3"),
        ("sql:1.0", "sql"),
        ("sql:2", "sql:2"),
        ("sql:.5+b:5.", "sql:0.5+b:5"),
        ("b+a", "b+a"),
        ("a:1e-7", "a:1e-07"),
        ("a:1e+3+b", "a:1000+b"),
        ("a:1+3", "a+3"),
        ("a:0", "a:0"),
        ("sql@1+sql@2", "sql@1+sql@2"),
    ],
)
def test_what_is_written_back(text: str, expected: str) -> None:
    assert format_stack(parse_stack(text)) == expected


@given(_STACKS)
def test_stacks_read_back(parts: list[tuple[str, int | None, float]]) -> None:
    terms = tuple(StackTerm(AdapterRef(name, version), scale) for name, version, scale in parts)
    assert parse_stack(format_stack(terms)) == terms


@given(st.text(alphabet="ab12@:+.-eE", max_size=30) | st.text(max_size=30))
def test_any_text_is_a_stack_or_refused(text: str) -> None:
    try:
        terms = parse_stack(text)
    except AdapterError:
        return
    assert all(math.isfinite(term.scale) for term in terms)
    assert parse_stack(format_stack(terms)) == terms


@pytest.mark.parametrize(
    "text",
    [
        "", "+", "a+", "+a", "a++b", "a:", "a::1", "a:1:2", "a:x", "a:nan", "a:inf", "a:-inf",
        "a:+1", "a:1e", "a:--1", "a: 1", "a:0x1", "a:1_0", "a:１", ":1", "a:1e999",
    ],
)  # fmt: skip
def test_malformed_stacks(text: str) -> None:
    with pytest.raises(InvalidStackError):
        parse_stack(text)


@pytest.mark.parametrize("text", ["a+a", "a:0.5+b+a:0.5", "a@1+a@1:2", "a+a@1", "a@1+a"])
def test_the_same_adapter_twice(text: str) -> None:
    with pytest.raises(InvalidStackError, match="named twice"):
        parse_stack(text)


def test_bounds() -> None:
    fits = "+".join(f"a{index}" for index in range(MAX_TERMS))
    assert len(parse_stack(fits)) == MAX_TERMS
    with pytest.raises(InvalidStackError, match="at most 32"):
        parse_stack(fits + "+more")
    with pytest.raises(InvalidStackError, match="characters"):
        parse_stack("a+" * 10_000)
    with pytest.raises(InvalidStackError, match="must be finite"):
        StackTerm(AdapterRef("a"), math.nan)
