import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import AdapterError, InvalidNameError
from adapters.names import NAME_PATTERN, AdapterRef, parse_ref


@pytest.mark.parametrize("name", ["sql", "a", "7b", "Chat.v2_final-1", "a" * 96])
def test_good_names(name: str) -> None:
    assert parse_ref(name) == AdapterRef(name, None)
    assert str(parse_ref(f"{name}@12")) == f"{name}@12"
    assert parse_ref(f"{name}@12").version == 12


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "../x", "a/../b", "a..b", "a/b", "a\\b", "/etc", "-a", "_a", ".a", "a b",
        "a\n", "a\0", "é", "名", "a" * 97, "a:1", "a+b", "@1", "a@", "a@0", "a@-1", "a@01", "a@1.0",
        "a@x", "a@1@2", "a@1234567890", "a@１",
    ],
)  # fmt: skip
def test_bad_names(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        parse_ref(text)
    assert len(str(caught.value)) < 300


def test_a_reference_is_checked_at_birth() -> None:
    with pytest.raises(InvalidNameError):
        AdapterRef("../secret")
    with pytest.raises(InvalidNameError, match="versions are 1 to"):
        AdapterRef("sql", 0)


@given(st.from_regex(NAME_PATTERN, fullmatch=True), st.none() | st.integers(1, 999_999_999))
def test_references_read_back(name: str, version: int | None) -> None:
    ref = AdapterRef(name, version)
    assert parse_ref(str(ref)) == ref


@given(st.text(max_size=120))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    with contextlib.suppress(AdapterError):
        assert str(parse_ref(text)) == text
