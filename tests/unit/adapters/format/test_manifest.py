import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adapters.errors import ManifestError
from adapters.format.manifest import (
    BaseLineage,
    DataRecord,
    QuantizationRecord,
    TemplateRecord,
    read_manifest,
)
from tests.unit.adapters.peft_folder import manifest


def test_a_full_manifest_reads_back(tmp_path: Path) -> None:
    full = manifest(
        base=BaseLineage(reference="embedded:x", revision=None, digest="sha256:1"),
        quantization=QuantizationRecord(scheme="nf4", block_size=64, double_quant=True),
        template=TemplateRecord(
            text="{{ messages }}",
            hash="sha256:2",
            golden_messages=[{"role": "user", "content": "你好"}],
            golden_token_ids=[1, 2, 3],
        ),
        data=DataRecord(digest="sha256:3", num_train_rows=150, num_eval_rows=8, counts={"dup": 2}),
        config={"lora": {"r": 8, "target_modules": ["q_proj"]}},
        seed=7,
        library_versions={"peft": "0.21.2"},
        metrics={"eval_loss": 1.5},
        parent="sql@2",
        digest="sha256:" + "a" * 64,
    )
    path = tmp_path / "manifest.json"
    path.write_text(full.to_json())
    assert read_manifest(path) == full
    assert json.loads(path.read_text())["schema_version"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 3}, "knows up to 2: update Switchyard"),
        ({"schema_version": 0}, "schema_version"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"rank": -1}, "rank: Input should be"),
        ({"digest": "md5:1"}, "digest: String should match"),
        ({"name": None}, "name: Input should be a valid string"),
        ({"base": {"reference": "x"}}, "base.digest: Field required"),
    ],
)
def test_wrong_manifests(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest().model_dump() | changes))
    with pytest.raises(ManifestError, match=reason):
        read_manifest(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="can't be read"):
        read_manifest(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text("[" * 1000)
    with pytest.raises(ManifestError, match="nested deeper"):
        read_manifest(tmp_path / "manifest.json")


def test_it_is_frozen_and_finite() -> None:
    with pytest.raises(ValidationError):
        manifest().name = "other"
    with pytest.raises(ValidationError):
        manifest(metrics={"eval_loss": float("nan")})
