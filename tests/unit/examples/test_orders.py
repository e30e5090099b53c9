"""The orders of `examples/extract_exact`: held-out rows share no name with the others."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "examples" / "extract_exact"
NAMED = ("item", "deliver_to", "contact")
SHARED = {"the", "street"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The rows of each file, as the command writes them."""
    folder = tmp_path_factory.mktemp("orders")
    for path in SOURCE.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    subprocess.run([sys.executable, folder / "rows.py", "150"], check=True)
    return {
        path.stem: [json.loads(line)["messages"] for line in path.read_text().splitlines()]
        for path in folder.glob("*.jsonl")
    }


def names(rows: list[Any]) -> set[str]:
    """The words of all items, places and people."""
    answers = [json.loads(row[2]["content"]) for row in rows]
    text = " ".join(answer[key] for answer in answers for key in NAMED)
    return set(re.findall("[a-z]+", text.lower()))


def test_held_out_names_are_of_words_that_no_other_row_has(files: dict[str, list[Any]]) -> None:
    others = [*files["train"], *files["check"]]
    asked = " ".join(row[1]["content"] for row in others).lower()
    assert names(files["eval"]) & set(re.findall("[a-z]+", asked)) == SHARED
    assert {name: len(rows) for name, rows in files.items()} == {
        "train": 150, "check": 24, "eval": 200,
    }  # fmt: skip


def test_every_value_can_be_read_off_the_order(files: dict[str, list[Any]]) -> None:
    for rows in files.values():
        for _, order, answer in rows:
            for value in json.loads(answer["content"]).values():
                assert value is None or str(value) in order["content"]
