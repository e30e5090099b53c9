from pathlib import Path

import pytest

from adapters.errors import DocumentError
from adapters.format.bounded_json import parse_json_object, read_json_object


def test_brackets_in_strings_are_no_depth() -> None:
    assert parse_json_object(b'{"[[[[\\"[[": "{{{{"}', "it", max_depth=1) == {'[[[["[[': "{{{{"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 1_000_000, "nested deeper than 8"),
        (b'{"a":' * 1_000_000, "nested deeper than 8"),
        (b'"' + b'\\"' * 1_000_000, "isn't valid JSON"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": NaN}', "NaN isn't a JSON number"),
        (b'{"a": -Infinity}', "isn't a JSON number"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "isn't valid JSON"),
        (b"[1]", "must hold a JSON object, not list"),
        (b"", "isn't valid JSON"),
        (b"\xff\xfe{\x00}\x00", "isn't valid JSON"),
    ],
)
def test_bombs_and_nonsense(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        parse_json_object(data, "it", max_depth=8)


def test_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "' + "x" * 100 + '"}')
    assert read_json_object(path, max_bytes=200, max_depth=1)["a"] == "x" * 100
    with pytest.raises(DocumentError, match="larger than 100 bytes"):
        read_json_object(path, max_bytes=100, max_depth=1)
    with pytest.raises(DocumentError, match="can't be read: No such file"):
        read_json_object(tmp_path / "none.json", max_bytes=100, max_depth=1)
