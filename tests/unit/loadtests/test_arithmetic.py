"""Loss, agreement and step times of every variant, on a tiny base."""

import json
import math
from pathlib import Path

import pytest
import transformers

from loadtests.arithmetic import main
from server.native.build import load_native
from tests.unit.adapters.base.tiny_base import save_tokenizer
from tests.unit.server.model.tiny import CONFIGS

TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
ROWS = [
    {"instruction": "w5 w9", "input": "w17", "output": "w33 w65 w3 w80"},
    {"messages": [{"role": "user", "content": "w7"}, {"role": "assistant", "content": "w8 w9"}]},
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-llama"
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.08)
    model.save_pretrained(path)
    save_tokenizer(path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def test_every_variant_is_read_and_timed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = load_native()
    if library is None or not library.instruction_set.multiplies_bytes:
        pytest.skip("int8 arithmetic needs AVX512-VNNI")
    rows, report = tmp_path / "rows.jsonl", tmp_path / "report.json"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    arguments = ["--quick", "--base", str(base), "--rows", str(rows), "--json", str(report)]
    assert main(arguments) == 0
    variants = json.loads(report.read_text())["variants"]
    assert [(v["arithmetic"], v["head_format"]) for v in variants] == [
        (arithmetic, head)
        for arithmetic in ("bfloat16", "int8")
        for head in ("bfloat16", "int8", "nf4")
    ]
    assert {v["num_tokens"] for v in variants} == {6}
    exact = variants[0]
    assert exact["agreement"] == 1.0
    # Random weights: close to a uniform guess over the vocabulary.
    assert exact["loss"] == pytest.approx(math.log(256), abs=1.0)
    for variant in variants[1:]:
        assert 0.0 < abs(variant["loss"] - exact["loss"]) < 0.2
    assert all(ms > 0.0 for v in variants for ms in v["step_ms"].values())
    assert "same greedy token" in capsys.readouterr().out


def test_rows_without_an_answer_are_an_error(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if load_native() is None:
        pytest.skip("no native kernels on this machine")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "w5", "output": ""}) + "\n")
    assert main(["--quick", "--base", str(base), "--rows", str(rows)]) == 1
    assert "no rows with an answer" in capsys.readouterr().err
