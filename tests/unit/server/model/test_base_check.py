"""The question whether a base can be served, as another process asks it."""

import json
from pathlib import Path

import pytest

from server.model.base_check import main
from tests.unit.adapters.base.tiny_base import tiny_folder
from tests.unit.server.model.tiny import recurrent_folder


def problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    assert main([str(folder), "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["problem"] is None) == (answer["backend"] is not None)
    said: str | None = answer["problem"]
    return said


def test_a_base_that_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problem(tiny_folder(tmp_path), capsys) is None


def test_a_base_that_can_be_loaded_but_not_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = problem(recurrent_folder(tmp_path), capsys)
    assert said is not None
    assert said.startswith("recurrent_gemma models can't be served")


def test_a_base_that_cant_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tiny_folder(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    said = problem(tmp_path, capsys)
    assert said is not None
    assert "model.safetensors is truncated" in said
