"""Whole runs on a tiny random base: data to published adapter, and every way out before that."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from adapters.base.loading import load_base
from adapters.base.quantization import NF4
from adapters.errors import InspectionError
from adapters.names import AdapterRef, parse_ref
from adapters.store.store import AdapterStore
from tests.unit.trainer.tiny import ENDLESS, save_tiny_base
from trainer.batches.collator import pad_token_id
from trainer.cli import app
from trainer.config.loading import LoadedConfig, load_config
from trainer.data.labels import ConversationLabeller
from trainer.data.preparation import DataSource, prepare_data
from trainer.errors import TrainingFailedError
from trainer.loop.held_out_loss import held_out_loss
from trainer.run.running import RunResult, run_training

QUICK = ["--training.epochs", "6", "--training.batch_tokens", "512", "--evaluation.samples", "2"]
QUICK += ["--training.learning_rate", "1e-2", "--evaluation.sample_tokens", "4", "--lora.r", "4"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


def write_example(folder: Path, base: Path, **document: Any) -> Path:
    """A config and 40 rows in which the answer is always the same courtesy."""
    rows = [
        {"instruction": f"item {i * 7 % 41}?", "input": "", "output": "Thank you! 谢谢"}
        for i in range(41)
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    config = {"name": "polite", "base": str(base), "data": {"train": "train.jsonl"}, **document}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def run(loaded: LoadedConfig, folder: Path) -> tuple[RunResult, AdapterStore, str]:
    store = AdapterStore(folder / "store")
    console = Console(record=True, width=140, force_terminal=False)
    with console.capture() as capture:
        result = run_training(loaded, store=store, runs=folder / "runs", console=console)
    return result, store, capture.get()


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.slow
def test_a_run_publishes_what_it_measured(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    loaded = load_config(path, QUICK)
    result, store, output = run(loaded, tmp_path)

    assert result.eval_loss < 0.5 * result.eval_loss_base
    assert "held-out loss of the base" in output
    assert "tokens/s" in output
    assert "published polite@1" in output
    assert result.stored is not None
    stored = store.get(parse_ref("polite"))
    assert (stored.version, stored.rank) == (1, 4)
    files = {file.name for file in stored.path.iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "README.md", "loss.png"}
    manifest = stored.manifest
    assert manifest.base is not None
    assert manifest.base.reference == str(base)
    assert manifest.metrics["eval_loss"] == result.eval_loss
    assert manifest.metrics["eval_loss_base"] == result.eval_loss_base
    assert manifest.config["training"]["epochs"] == 6
    assert manifest.parent is None
    assert any((result.folder.path / "tensorboard").glob("events.out.*"))
    history = [json.loads(line) for line in result.folder.history.read_text().splitlines()]
    assert sum("eval_loss" in record for record in history) == 6

    assert plain_peft_loss(loaded, stored.path) == pytest.approx(result.eval_loss, rel=1e-5)
    assert golden_ids(stored.path) == list(manifest_golden(manifest))


def plain_peft_loss(loaded: LoadedConfig, folder: Path) -> float:
    """Held-out loss of the published folder on a fresh base, loaded by PEFT alone."""
    from peft import PeftModel

    fresh = load_base(loaded.config.base, NF4)
    labeller = ConversationLabeller(fresh.tokenizer, fresh.template.text)
    config = loaded.config
    source = DataSource(config.data, loaded.folder, config.seed)
    data = prepare_data(source, labeller)
    model = PeftModel.from_pretrained(fresh.model, str(folder))
    rows = [example.row for example in data.held_out]
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    pad_id = pad_token_id(fresh.tokenizer)
    return held_out_loss(model, rows, batch_tokens=4096, pad_id=pad_id).mean


def golden_ids(folder: Path) -> list[int]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return list(manifest["template"]["golden_token_ids"])


def manifest_golden(manifest: Any) -> Sequence[int]:
    fresh = load_base(manifest.base.reference, NF4)
    template = manifest.template
    labeller = ConversationLabeller(fresh.tokenizer, template.text)
    return labeller.message_ids(template.golden_messages)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_the_next_version(
    base: Path, tmp_path: Path
) -> None:
    path = write_example(tmp_path, base)
    quick = [*QUICK, "--training.epochs", "2"]
    for seed in ("1", "1", "2"):
        _, store, _ = run(load_config(path, [*quick, "--seed", seed]), tmp_path)
    versions = [store.get(AdapterRef("polite", version)) for version in (1, 2, 3)]
    assert versions[0].digest == versions[1].digest != versions[2].digest
    assert [v.manifest.parent for v in versions] == [None, "polite@1", "polite@2"]


@pytest.mark.slow
def test_only_the_newest_versions_are_kept_when_asked(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    quick = [*QUICK, "--training.max_steps", "2", "--publish.gate", "none", "--publish.keep", "1"]
    for _ in range(2):
        _, store, _ = run(load_config(path, quick), tmp_path)
    assert store.versions("polite") == (2,)


@pytest.mark.slow
def test_without_alias_the_name_keeps_its_meaning(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    quick = [*QUICK, "--training.max_steps", "1", "--publish.gate", "none"]
    quick += ["--evaluation.samples", "0"]
    for alias in ("false", "true", "false"):
        _, store, _ = run(load_config(path, [*quick, "--publish.alias", alias]), tmp_path)
    assert store.versions("polite") == (1, 2, 3)
    assert store.current_version("polite") == 2
    assert store.get(AdapterRef("polite", 2)).manifest.parent is None
    assert store.get(AdapterRef("polite", 3)).manifest.parent == "polite@2"


@pytest.mark.slow
def test_the_best_evaluation_is_what_is_published(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    # A rate that breaks the adapter once it is reached: the first evaluations are better.
    wild = [*QUICK, "--training.learning_rate", "3", "--training.warmup_share", "0.9"]
    wild += ["--evaluation.every", "1", "--training.epochs", "3", "--publish.gate", "none"]
    result, _, _ = run(load_config(path, wild), tmp_path)
    history = [json.loads(line) for line in result.folder.history.read_text().splitlines()]
    measured = [record["eval_loss"] for record in history if "eval_loss" in record]
    assert min(measured) < measured[-1]
    assert result.eval_loss == pytest.approx(min(measured), rel=0.05)


@pytest.mark.slow
def test_an_adapter_without_effect_is_not_published(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    # Less than float32 holds: lora_B stays at zero.
    idle = [*QUICK, "--training.learning_rate", "1e-60", "--publish.gate", "none"]
    with pytest.raises(InspectionError, match="no effect"):
        run(load_config(path, idle), tmp_path)
    assert not (tmp_path / "store" / "polite").exists()


@pytest.mark.slow
def test_accumulated_forwards_equal_one_large_batch(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    common = ["--training.max_steps", "1", "--training.epochs", "1", "--lora.dropout", "0"]
    common += ["--publish.gate", "none", "--evaluation.samples", "0", "--data.eval", "0.2"]
    losses = []
    for batch_tokens, accumulation in (("8192", "1"), ("512", "64")):
        overrides = ["--training.batch_tokens", batch_tokens]
        overrides += ["--training.gradient_accumulation", accumulation]
        result, _, _ = run(load_config(path, [*common, *overrides]), tmp_path)
        first = json.loads(result.folder.history.read_text().splitlines()[0])
        losses.append((first["loss"], first["grad_norm"]))
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


@pytest.mark.slow
def test_a_closed_gate_publishes_nothing_and_exits_1(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    code, output = invoke(
        "run", path, "--store", tmp_path / "store", "--runs", tmp_path / "runs",
        "--training.max_steps", "1", "--publish.gate", "eval_loss < 0.01 * base",
        "--evaluation.samples", "0",
    )  # fmt: skip
    assert code == 1
    assert "does not hold" in output
    assert "nothing was published" in output
    assert AdapterStore(tmp_path / "store").names() == ()


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_ends_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.loop import objective

    real = objective.loss_sum
    calls = []

    def broken(model: Any, batch: Any) -> tuple[torch.Tensor, int]:
        calls.append(1)
        summed, count = real(model, batch)
        return (summed * float("nan") if len(calls) == 3 else summed), count

    monkeypatch.setattr(objective, "loss_sum", broken)
    path = write_example(tmp_path, base)
    with pytest.raises(TrainingFailedError, match="loss of step 3 is nan; nothing was published"):
        run(load_config(path, QUICK), tmp_path)
    assert AdapterStore(tmp_path / "store").names() == ()


@pytest.mark.slow
def test_check_says_what_would_happen_and_writes_nothing(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base)
    before = sorted(tmp_path.rglob("*"))
    code, output = invoke("check", path, "--lora.r", "2")
    assert code == 0, output
    assert "all checks passed" in output
    assert "instruction, input, output" in output
    assert "⟦" in output
    assert "14 linear layers" in output
    assert sorted(tmp_path.rglob("*")) == before


def test_config_mistakes_come_all_at_once_without_a_traceback(base: Path, tmp_path: Path) -> None:
    path = write_example(tmp_path, base, lora={"rnak": 3})
    code, output = invoke("run", path, "--trainig.epochs", "3", "--lora.bias", "some")
    assert code == 2
    assert "lora.rnak: unknown key" in output
    assert "trainig: unknown key; did you mean training?" in output
    assert "lora.bias: input should be 'none', 'all' or 'lora_only' (it is 'some')" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--data.train", "none.jsonl"], "no data file"),
        (["--base", "no/such/folder/here"], "no folder"),
        (["--lora.target_modules", "[query]"], "query match no linear layer"),
    ],
)
def test_other_mistakes_are_one_line(
    base: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    code, output = invoke("check", write_example(tmp_path, base), *overrides)
    assert code == 1
    assert message in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_base_whose_template_never_ends_an_answer_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_base(tmp_path / "base")
    (folder / "chat_template.jinja").write_text(ENDLESS, encoding="utf-8")
    code, output = invoke("check", write_example(tmp_path, folder))
    assert code == 1
    assert "ends no answer with a special token" in output


def test_help_reads_well() -> None:
    for arguments in (["--help"], ["run", "--help"], ["check", "--help"]):
        code, output = invoke(*arguments)
        assert code == 0
        assert "Train" in output or "before step 1" in output
