from pathlib import Path
from typing import Any

import pytest

from adapters.errors import DocumentError, TensorFileError
from adapters.format.digest import adapter_digest
from tests.unit.adapters.peft_folder import (
    lora_config,
    lora_tensors,
    safetensors_bytes,
    write_folder,
)


def test_what_does_not_change_the_function(tmp_path: Path) -> None:
    digest = adapter_digest(write_folder(tmp_path / "a"))
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    config = lora_config(
        base_model_name_or_path="/elsewhere",
        lora_dropout=0.5,
        lora_alpha=4.0,
        peft_version="9",
        target_modules=["up_proj", "q_proj"],
        use_something_new=False,
        megatron_core="megatron.core",
        bias=None,
    )
    tensors = dict(reversed(lora_tensors().items()))
    other = write_folder(tmp_path / "b", config=dict(reversed(config.items())), tensors=tensors)
    (other / "README.md").write_text("a card")
    data = safetensors_bytes(tensors, {"format": "pt"})
    (other / "adapter_model.safetensors").write_bytes(data)
    assert adapter_digest(other) == digest


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": 8},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 8}},
        {"use_dora": True},
        {"peft_type": "LOHA"},
        {"use_something_new": True},
    ],
)
def test_config_keys_that_change_the_function(tmp_path: Path, changes: dict[str, Any]) -> None:
    plain = adapter_digest(write_folder(tmp_path / "a"))
    other = write_folder(tmp_path / "b", config=lora_config(**changes))
    assert adapter_digest(other) != plain


def test_the_order_of_patterns_matters(tmp_path: Path) -> None:
    one = lora_config(alpha_pattern={"q_proj": 8, "0.self_attn.q_proj": 2})
    two = lora_config(alpha_pattern={"0.self_attn.q_proj": 2, "q_proj": 8})
    assert adapter_digest(write_folder(tmp_path / "a", config=one)) != adapter_digest(
        write_folder(tmp_path / "b", config=two)
    )


def test_names_types_shapes_and_bytes_of_tensors_matter(tmp_path: Path) -> None:
    data = b"\1" * 16
    variants = [
        {"x": ("F32", (2, 2), data)},
        {"y": ("F32", (2, 2), data)},
        {"x": ("I32", (2, 2), data)},
        {"x": ("F32", (4, 1), data)},
        {"x": ("F32", (2, 2), data[:-1] + b"\2")},
        {"x": ("F32", (2, 1), data[:8]), "y": ("F32", (2, 1), data[:8])},
    ]
    digests = {
        adapter_digest(write_folder(tmp_path / str(index), tensors=dict(tensors)))
        for index, tensors in enumerate(variants)
    }
    assert len(digests) == len(variants)


def test_damaged_folders(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(TensorFileError):
        adapter_digest(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(DocumentError):
        adapter_digest(folder)
