"""`trainer init` and `trainer schema`: what they write is true of the config."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.testing import CliRunner

from trainer.cli import app
from trainer.config import Method, TrainerConfig
from trainer.config.loading import load_config
from trainer.config.starter import starter_config


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def text_of(method: Method) -> str:
    return starter_config(method, name="a", base="b", data="c.jsonl")


@pytest.mark.parametrize("method", get_args(Method))
def test_uncommenting_every_line_changes_nothing(method: Method) -> None:
    text = text_of(method)
    bare = TrainerConfig.model_validate(yaml.safe_load(text))
    lines = [line.removeprefix("#") for line in text.splitlines() if not line.startswith("##")]
    uncommented = "\n".join(lines)
    document = yaml.safe_load(uncommented)
    assert TrainerConfig.model_validate(document) == bare
    assert set(document) > {"name", "base", "method", "data", "training", "publish"}
    assert ("adalora" in document) == (method == "adalora")


def test_every_key_says_what_it_means() -> None:
    def walk(schema: dict[str, Any], where: str) -> list[str]:
        return [
            f"{where}.{name}"
            for name, entry in schema.get("properties", {}).items()
            if not entry.get("description")
        ]

    document = TrainerConfig.model_json_schema()
    unsaid = walk(document, "top")
    for name, schema in document["$defs"].items():
        unsaid += walk(schema, name)
    assert unsaid == []


def test_the_schema_is_printed_as_json() -> None:
    code, output = invoke("schema")
    assert code == 0
    document = json.loads(output)
    assert document["properties"]["method"]["default"] == "qlora"
    assert document["additionalProperties"] is False


def test_init_writes_a_config_that_loads_and_rows_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "polite" / "config.yaml"
    code, output = invoke("init", path, "--method", "lora")
    assert code == 0, output
    config = load_config(path).config
    assert (config.name, config.method, config.data.train) == ("polite", "lora", "train.jsonl")
    rows = (path.parent / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) >= 10
    before = path.read_text(encoding="utf-8")
    code, output = invoke("init", path)
    assert code == 2
    assert "is there already" in " ".join(output.split())
    assert path.read_text(encoding="utf-8") == before


def test_init_with_data_writes_no_rows(tmp_path: Path) -> None:
    code, _ = invoke("init", tmp_path / "c.yaml", "--data", "mine.jsonl", "--name", "sql")
    assert code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["c.yaml"]
    assert load_config(tmp_path / "c.yaml").config.data.train == "mine.jsonl"


def test_init_refuses_what_is_no_method(tmp_path: Path) -> None:
    code, output = invoke("init", tmp_path / "c.yaml", "--method", "loar", "--name", "a")
    assert code == 2
    assert "loar is no method; use one of lora, qlora" in " ".join(output.split())


@pytest.mark.slow
@pytest.mark.parametrize("method", get_args(Method))
def test_what_init_writes_passes_check(
    tiny_base: Path, tmp_path: Path, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It takes a process, and tests of its own ask it.
    monkeypatch.setattr("trainer.serving.base_check.require_servable", lambda *_: None)
    path = tmp_path / "polite" / "config.yaml"
    code, output = invoke("init", path, "--method", method, "--base", tiny_base)
    assert code == 0, output
    code, output = invoke("check", path, "--store", tmp_path / "none")
    assert code == 0, output
    assert "all checks passed" in output
    assert {file.name for file in path.parent.iterdir()} == {"config.yaml", "train.jsonl"}
