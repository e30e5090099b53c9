"""The two files of a PEFT adapter, written the same way for the same weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adapters.format.folder_files import CONFIG_FILE, WEIGHTS_FILE

_ROUNDED = (".lora_A.", ".lora_B.")
"""Tensors that `publish.dtype` is for. Others are a few vectors, some of them near 1, where
bfloat16 has steps of 0.8 %: they stay in float32."""


def write_adapter_files(
    tensors: Mapping[str, torch.Tensor],
    document: Mapping[str, Any],
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write `adapter_config.json` from `document`, and `tensors` under the names that PEFT saves.

    LoRA factors are rounded to `dtype`. The same weights and config give the same bytes. No model
    card: that one is ours to write.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    rounded = {
        name: tensor.detach()
        .to("cpu", dtype if any(part in name for part in _ROUNDED) else torch.float32)
        .contiguous()
        for name, tensor in sorted(tensors.items())
    }
    save_file(rounded, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    # Only the top level is sorted: of two patterns in a table the first that matches counts.
    ordered = dict(sorted({**document, "inference_mode": True}.items()))
    text = json.dumps(ordered, indent=2, default=_as_json)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def adapter_tensors(peft_model: Any) -> dict[str, torch.Tensor]:
    """The trained tensors of the adapter `default`, under the names that PEFT saves."""
    from peft import get_peft_model_state_dict

    # Embeddings aren't trained; "auto" would ask the hub for the base's vocabulary.
    return dict(get_peft_model_state_dict(peft_model, save_embedding_layers=False))


def _as_json(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
