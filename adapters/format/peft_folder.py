"""Writes a PEFT folder of a plain LoRA. Needs torch."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapters.format.folder_files import CONFIG_FILE, WEIGHTS_FILE
from adapters.format.tensor_roles import KEY_PREFIX

Factors = tuple[torch.Tensor, torch.Tensor]
"""A [r, in] and B [out, r], the scale in them."""


def write_lora(
    folder: Path,
    factors: Mapping[str, Factors],
    *,
    base_reference: str | None,
    biases: Mapping[str, torch.Tensor] | None = None,
    is_transposed: bool = False,
) -> int:
    """Write the new `folder` with factors by module; returns the rank.

    With `biases` (by module, of some of them) it is a LoRA with bias. `is_transposed`: the base
    keeps its weights as [inputs, outputs], as GPT-2 does.
    """
    tensors: dict[str, torch.Tensor] = {}
    rank = max(a.shape[0] for a, _ in factors.values())
    for module, (a, b) in factors.items():
        prefix = f"{KEY_PREFIX}{module}.lora_"
        tensors[f"{prefix}A.weight"], tensors[f"{prefix}B.weight"] = a, b
        if biases:
            bias = biases.get(module)
            tensors[f"{prefix}B.bias"] = b.new_zeros(len(b)) if bias is None else bias.contiguous()
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_reference,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": bool(biases),
        "fan_in_fan_out": is_transposed,
        "use_rslora": False,
        "inference_mode": True,
        "target_modules": sorted(factors),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2))
    return rank
