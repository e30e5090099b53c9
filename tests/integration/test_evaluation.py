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
from adapters.format.digest import adapter_digest
from adapters.format.manifest import BaseLineage
from adapters.store.remote_store import open_store
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest
from tests.unit.trainer.endpoint import chat_endpoint
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


def test_a_judge_compares_each_adapter_with_the_base(
    base: Path, adapter: Path, data: Path, tmp_path: Path
) -> None:
    with chat_endpoint(lambda body: "Both are poor. [[C]]") as judge:
        code, text = invoke(
            "compare", adapter, "--data", data, "--base", base, "--answer-tokens", 4,
            "--metrics", "pairwise", "--judge-url", judge.url, "--judge-model", "j",
            "--out", tmp_path / "out",
        )  # fmt: skip
    assert code == 0, text
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["figures"]["base"] == {}
    assert document["figures"]["random"]["pairwise_tied"] == 5
    assert "pairwise_inconsistent" in text
    answers = document["rows"][0]["answers"]
    first, second = (body["messages"][0]["content"] for body in judge.bodies[:2])
    assert f"[Answer A]\n{answers['random']}\n[Answer B]\n{answers['base']}\n" in first
    assert f"[Answer A]\n{answers['base']}\n[Answer B]\n{answers['random']}\n" in second


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


def published(base: Path, adapter: Path, store: AdapterStore, **data: Any) -> str:
    """`sql@1`, whose run had `data` in its config; `sql` itself means version 2."""
    config = {"name": "sql", "base": str(base), "data": {"train": "t.jsonl", **data}}
    lineage = BaseLineage(reference=str(base), digest=f"sha256:{'0' * 64}")
    document = manifest("sql").model_copy(update={"config": config, "base": lineage})
    labels = [store.publish("sql", adapter, document).label for _ in range(2)]
    assert labels == ["sql@1", "sql@2"]
    return labels[0]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_version_is_asked_for_as_one_and_read_as_its_run_read(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("SWITCHYARD_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "held.jsonl"
    rows = [{"frage": f"<b>Was</b> ist {i}?", "antwort": f"{i}"} for i in range(3)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    reference = f"{scheme}{tmp_path / 'store'}"
    label = published(
        base, adapter, open_store(reference), system="Be brief.", cleaning={"html": "strip"},
        columns={"instruction": "frage", "output": "antwort"},
    )  # fmt: skip
    with chat_endpoint(lambda body: "1") as server:
        code, text = invoke(
            "eval", label, "--data", data, "--store", reference, "--metrics", "exact_match",
            "--server", server.url, "--out", tmp_path / "out",
        )  # fmt: skip
    assert code == 0, text
    assert server.models == {base.name, "sql@1"}
    assert [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Was ist 0?"},
    ] in [body["messages"] for body in server.bodies]
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert report["figures"]["sql@1"]["exact_match"] == pytest.approx(100 / 3)


def test_a_file_with_other_columns_than_the_runs_is_read_by_its_own(
    base: Path, adapter: Path, data: Path, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "store")
    published(base, adapter, store, columns={"messages": "talk"}, format="messages")
    code, text = invoke(
        "eval", "sql", "--data", data, "--store", store.root, "--metrics", "perplexity",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, text
    assert "other columns than data.columns of the run" in " ".join(text.split())


def test_a_name_that_the_store_does_not_have_is_told(data: Path, tmp_path: Path) -> None:
    code, text = invoke("eval", "nobody", "--data", data, "--store", tmp_path / "none")
    assert (code, (tmp_path / "none").exists()) == (1, False)
    assert "there is no store" in text
    AdapterStore(tmp_path / "store")
    code, text = invoke("eval", "nobody", "--data", data, "--store", tmp_path / "store")
    assert code == 1
    assert "nobody" in text
