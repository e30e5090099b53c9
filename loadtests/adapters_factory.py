"""Random adapters of a real shape, made on the spot: speed doesn't ask what the numbers mean."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapters.base.modules import module_shapes_from_config
from adapters.base.reference import resolve_base
from adapters.store import AdapterStore
from loadtests.mixed_kinds import MixedKinds

_B_STANDARD_DEVIATION = 0.01  # small, but enough to change what a greedy answer says


def base_module_shapes(reference: str) -> dict[str, tuple[int, int]]:
    """Module name -> (in_features, out_features) of a base's linears, read from its config."""
    from transformers import AutoConfig

    return module_shapes_from_config(AutoConfig.from_pretrained(str(resolve_base(reference).path)))


def write_random_adapter(
    folder: Path,
    shapes: Mapping[str, tuple[int, int]],
    *,
    rank: int,
    seed: int,
    base_reference: str,
) -> Path:
    """A PEFT LoRA folder over all of `shapes` in bfloat16, the same for the same seed.

    A [rank, in] is random and so is a small B [out, rank], so that the adapter changes the answer.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (in_features, out_features) in shapes.items():
        prefix = f"base_model.model.{name}"
        factor_a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
        factor_b = torch.randn(out_features, rank, generator=generator) * _B_STANDARD_DEVIATION
        tensors[f"{prefix}.lora_A.weight"] = factor_a.to(torch.bfloat16)
        tensors[f"{prefix}.lora_B.weight"] = factor_b.to(torch.bfloat16)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_reference,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in shapes}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def fill_store(
    store_root: Path,
    scratch: Path,
    base_reference: str,
    num_adapters: int,
    rank: int,
    *,
    kinds: str = "lora",
) -> dict[str, Path]:
    """Publish `bench-00`, `bench-01` ... into a store; returns name -> PEFT folder in `scratch`.

    With `kinds` "mixed" they are of every kind in turn.
    """
    shapes = base_module_shapes(base_reference)
    store = AdapterStore(store_root)
    mixed = MixedKinds(base_reference, shapes, rank) if kinds == "mixed" else None
    folders: dict[str, Path] = {}
    for index in range(num_adapters):
        name = f"bench-{index:02d}"
        if mixed is not None:
            folders[name] = mixed.write(scratch / name, index)
        else:
            folders[name] = write_random_adapter(
                scratch / name, shapes, rank=rank, seed=index, base_reference=base_reference
            )
        store.import_folder(name, folders[name], source="loadtests")
    return folders
