"""eval, compare and export on a tiny random base and an adapter that PEFT wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from adapters.base.loading import load_base
from adapters.base.training_guard import prepare_for_training
from adapters.digest import adapter_digest
from adapters.store import AdapterStore
from tests.unit.trainer.tiny import save_tiny_base
from trainer.cli import app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    folder = tmp_path_factory.mktemp("adapters") / "random"
    peft_model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "held.jsonl"
    rows = [{"instruction": f"问题 {i}?", "output": f"答案是 {i}"} for i in range(5)]
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return path


def invoke(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_compare_measures_base_and_adapters_on_the_same_rows(
    base: Path, adapter: Path, data: Path, tmp_path: Path
) -> None:
    before = adapter_digest(adapter)
    out = tmp_path / "out"
    code, text = invoke(
        "compare", adapter, adapter, "--data", data, "--base", base, "--answer-tokens", 4,
        "--out", out,
    )  # fmt: skip
    assert code == 0, text
    document = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    figures = document["figures"]
    assert set(figures) == {"base", "random"}
    assert figures["base"]["loss"] != figures["random"]["loss"]
    assert set(figures["base"]) == {
        "loss", "perplexity", "bleu", "rouge1", "rouge2", "rougeL", "exact_match",
    }  # fmt: skip
    assert document["data"]["language"] == "zh"
    assert set(document["rows"][0]["answers"]) == {"base", "random"}
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| base |" in (out / "evaluation.md").read_text(encoding="utf-8")
    assert adapter_digest(adapter) == before


def test_options_that_cannot_be_are_told(base: Path, adapter: Path, data: Path) -> None:
    code, text = invoke("eval", adapter, "--data", data, "--metrics", "meteor,judge")
    assert code == 2
    assert "'meteor' is no metric" in text
    assert "needs --judge-url" in text


def test_server_that_is_not_there_is_told(base: Path, adapter: Path, data: Path) -> None:
    code, text = invoke(
        "eval", adapter, "--data", data, "--base", base, "--server", "http://127.0.0.1:9"
    )
    assert code == 1
    assert "can't be asked" in text


def test_export_is_the_served_model_and_says_what_4_bits_cost(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    code, text = invoke("export", adapter, "--merge", out, "--base", base, "--dtype", "float32")
    assert code == 0, text
    report = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert report["merged"]["maximum"] < 1e-3
    assert report["requantized"]["mean"] > 10 * report["merged"]["mean"]
    assert "changes outputs" in text

    loaded = load_base(str(base), dtype=torch.float32)
    prepare_for_training(loaded.model)
    served = PeftModel.from_pretrained(loaded.model, adapter)
    plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, served(ids).logits, atol=1e-3)
    code, text = invoke("export", adapter, "--merge", out, "--base", base)
    assert code == 2
    assert "there already" in text


def test_a_version_in_the_store_needs_no_base_option(
    base: Path, adapter: Path, data: Path, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "store")
    assert store.names() == ()
    code, text = invoke("eval", "nobody", "--data", data, "--store", tmp_path / "store")
    assert code == 1
    assert "nobody" in text
