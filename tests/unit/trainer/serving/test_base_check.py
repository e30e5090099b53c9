"""What the trainer hears when it asks whether a server would take its base."""

import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from adapters.base.quantization import NF4, QuantizationSpec
from tests.unit.server.model.tiny import recurrent_folder
from trainer.cli import app
from trainer.errors import ServingError
from trainer.serving.base_check import require_servable


def answering(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_refusal_is_told_in_the_servers_words() -> None:
    program = """print('a line of a library'); print('{"problem": "its layers are round"}')"""
    with pytest.raises(ServingError, match="would refuse this base: its layers are round"):
        require_servable("owner/name", NF4, "cpu", answering(program))


def test_a_base_that_is_served_is_let_in_and_asked_about_as_it_will_be_held() -> None:
    program = (
        "import sys, json; given = sys.argv[1:] == "
        "['owner/name', '--quantization', 'fp4', '--device', 'cpu', '--no-double-quant'];"
        "print(json.dumps({'problem': None if given else str(sys.argv)}))"
    )
    spec = QuantizationSpec("fp4", double_quant=False)
    require_servable("owner/name", spec, "cpu", answering(program))


@pytest.mark.parametrize(
    "program", ["raise SystemExit('out of memory')", "print('{}')", "print(1)"]
)
def test_no_answer_is_a_refusal(program: str) -> None:
    with pytest.raises(ServingError, match=r"would fail: (out of memory|status 0)"):
        require_servable("owner/name", NF4, "cpu", answering(program))


@pytest.mark.slow
def test_check_refuses_a_base_that_no_server_takes(tmp_path: Path) -> None:
    folder = recurrent_folder(tmp_path / "base")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "w1 w2", "completion": "w3"}\n' * 40)
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump({"name": "x", "base": str(folder), "data": {"train": str(rows)}})
    )
    result = CliRunner().invoke(app, ["check", str(config)])
    assert result.exit_code == 1
    assert "recurrent_gemma models can't be served" in result.output
