"""An update of each module, whatever it was trained as, as an ordinary LoRA adapter."""

import re
from collections.abc import Mapping
from typing import Any

import torch

Factors = tuple[torch.Tensor, torch.Tensor]
"""A (r, in) and B (out, r)."""


def plain_lora(
    updates: Mapping[str, Factors],
    trained: Mapping[str, Any],
    others: Mapping[str, torch.Tensor],
    *,
    is_complete: bool,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, `adapter_config.json`) of the adapter whose update of each module is B A.

    `trained` is the document of the config that it was trained with, `others` the tensors that are
    published beside the factors; `is_complete` says that every module it was trained on has an
    update left. Modules may have different ranks; the scale is 1 everywhere.
    """
    from peft import LoraConfig

    tensors = dict(others)
    for module, (a, b) in updates.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    ranks = {module: a.shape[0] for module, (a, _) in updates.items()}
    largest = max(ranks.values())
    uneven = {re.escape(module): rank for module, rank in ranks.items() if rank != largest}
    # Short names, unless they would name a module without an update.
    by_name = not is_complete or bool(trained["exclude_modules"])
    targets = sorted(updates if by_name else trained["target_modules"])
    document = LoraConfig(
        r=largest,
        lora_alpha=largest,
        rank_pattern=uneven,
        alpha_pattern=dict(uneven),
        target_modules=targets,
        lora_dropout=trained["lora_dropout"],
        fan_in_fan_out=trained["fan_in_fan_out"],
        modules_to_save=trained["modules_to_save"],
        bias=trained["bias"],
        task_type="CAUSAL_LM",
        base_model_name_or_path=trained["base_model_name_or_path"],
    ).to_dict()
    return tensors, document
