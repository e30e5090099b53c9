"""`adapters import --fold`: what it prints, and what it refuses."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from adapters.base.reference import resolve_base
from adapters.commands.cli import app
from adapters.format.manifest import BaseLineage
from adapters.names import parse_ref
from adapters.store.store import AdapterStore
from tests.unit.adapters.base.tiny_base import tiny_folder
from tests.unit.adapters.peft_folder import manifest, write_folder
from tests.unit.server.model.dense_methods import make_dense_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def loha(base: Path, tmp_path: Path) -> Path:
    return make_dense_adapter("LOHA", base, tmp_path / "loha")


def fold(base: Path, folder: Path, *options: str) -> Result:
    store = ["--store", str(folder.parent / "store"), "--base", str(base)]
    return CliRunner().invoke(app, ["import", "a", str(folder), "--fold", *options, *store])


def refused(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.stderr


def test_a_fold_publishes_a_lora_that_says_what_it_was(base: Path, loha: Path) -> None:
    result = fold(base, loha)
    assert result.exit_code == 0, result.output
    assert "folded LOHA into a@1" in result.output
    assert "rank 16" in result.output, "the Hadamard product of two rank 4 matrices"
    stored = AdapterStore(loha.parent / "store").get(parse_ref("a"))
    assert (stored.rank, stored.manifest.method) == (16, "lora")
    assert stored.manifest.base == BaseLineage(
        reference=str(base), digest=resolve_base(str(base)).digest
    )
    assert stored.manifest.metrics["fold_relative_error_max"] < 1e-4
    assert stored.manifest.source == str(loha)
    assert fold(base, loha).exit_code == 0
    assert AdapterStore(loha.parent / "store").get(parse_ref("a")).manifest.parent == "a@1"


def test_a_fold_that_loses_too_much_says_how_much_and_what_would_do(base: Path, loha: Path) -> None:
    message = refused(fold(base, loha, "--rank", "4"))
    assert "at rank 4 the fold loses" in message
    assert "5.0% is the limit" in message
    assert "--rank 16" in message
    assert AdapterStore(loha.parent / "store").names() == ()
    assert fold(base, loha, "--rank", "4", "--max-error", "0.9").exit_code == 0


def test_what_is_served_as_it_is_is_not_folded(base: Path, tmp_path: Path) -> None:
    lora = write_folder(tmp_path / "lora")
    assert "import the adapter without --fold" in refused(fold(base, lora))
    assert "needs the base" in refused(
        CliRunner().invoke(app, ["import", "a", str(lora), "--fold"], env={"SWITCHYARD_BASE": ""})
    )
    assert "are of --fold" in refused(
        CliRunner().invoke(app, ["import", "a", str(lora), "--rank", "4"])
    )


def test_faulty_sources(base: Path, loha: Path) -> None:
    weights = loha / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != name}, weights)
    assert "isn't whole" in refused(fold(base, loha))
    save_file({**tensors, name.replace("layers.", "layers.9"): tensors[name].clone()}, weights)
    assert "they fit nothing in this base" in refused(fold(base, loha))
    save_file({**tensors, name: tensors[name] * float("nan")}, weights)
    assert "NaN or infinite" in refused(fold(base, loha))
    save_file(tensors, weights)
    (loha / "optimizer.bin").write_bytes(b"x")
    assert "is a pickle" in refused(fold(base, loha))
    (loha / "optimizer.bin").unlink()
    config = json.loads((loha / "adapter_config.json").read_text())
    changed = {**config, "modules_to_save": ["lm_head"]}
    (loha / "adapter_config.json").write_text(json.dumps(changed))
    assert "changes of linears only" in refused(fold(base, loha))
    (loha / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["none"]}))
    assert "PEFT can't apply" in refused(fold(base, loha))


def test_an_adapter_without_effect_or_of_another_base(base: Path, loha: Path) -> None:
    weights = loha / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({k: v * 0.0 for k, v in tensors.items()}, weights)
    assert "it has no effect" in refused(fold(base, loha))
    other = manifest(base=BaseLineage(reference="other", digest="sha256:" + "1" * 64))
    (loha / "manifest.json").write_text(other.to_json())
    assert "was trained on the base other" in refused(fold(base, loha))
