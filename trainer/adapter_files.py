"""The two files of a PEFT adapter: written the same way for the same weights, and read back."""

import json
from pathlib import Path
from typing import Any

import torch

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def write_adapter(peft_model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write config and weights, the weights rounded to `dtype`, into `folder` (created if need be).

    The same weights and config give the same bytes. No model card: that one is ours to write.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in sorted(adapter_tensors(peft_model).items())
    }
    save_file(tensors, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    document = peft_model.peft_config["default"].to_dict()
    document["inference_mode"] = True
    text = json.dumps(document, indent=2, sort_keys=True, default=_as_json)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def read_adapter(peft_model: Any, folder: Path) -> None:
    """Overwrite the adapter of `peft_model` with the weights in `folder`, keeping its dtype.

    After it the model computes with exactly the published values.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(peft_model, load_file(str(folder / WEIGHTS_FILE)))
    assert not result.unexpected_keys, result.unexpected_keys


def adapter_tensors(peft_model: Any) -> dict[str, torch.Tensor]:
    """The trained tensors under the names that PEFT saves."""
    from peft import get_peft_model_state_dict

    # Embeddings aren't trained; "auto" would ask the hub for the base's vocabulary.
    return dict(get_peft_model_state_dict(peft_model, save_embedding_layers=False))


def _as_json(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
