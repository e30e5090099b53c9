"""Rows of hub datasets. `datasets` 5.2 reads text in columns of mixed types as JSON values."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from trainer.data.reading import read_rows
from trainer.errors import DataError


def _serve(rows: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's `org/data` be these rows."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    load = datasets.load_dataset

    def from_file(_reference: str, **options: Any) -> Any:
        cache = str(folder / "cache")
        return load("json", data_files=str(file), cache_dir=cache, **options)

    monkeypatch.setattr(datasets, "load_dataset", from_file)


def test_a_column_of_mixed_types_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [{"type": "text", "text": "hi"}]
    rows = [{"messages": [{"role": "user", "content": content}]} for content in ("42", parts)]
    _serve(rows, tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"columns of mixed types \(messages.content\)"):
        list(read_rows(tmp_path / "absent", "org/data"))


def test_text_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve([{"text": "01234"}, {"text": "null"}], tmp_path, monkeypatch)
    rows = list(read_rows(tmp_path / "absent", "org/data"))
    assert [row.values["text"] for row in rows if not isinstance(row, tuple)] == ["01234", "null"]
