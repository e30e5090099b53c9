"""Writes small PEFT LoRA folders without torch, right or wrong as a test wants them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.format.manifest import Manifest

MODULES = {
    "model.layers.0.self_attn.q_proj": (8, 8),
    "model.layers.0.mlp.up_proj": (8, 12),
    "model.layers.1.self_attn.q_proj": (8, 8),
    "model.layers.1.mlp.up_proj": (8, 12),
}
"""Module -> (in_features, out_features) of the pretended base."""

Tensors = dict[str, tuple[str, Sequence[int], bytes]]


def lora_config(**changes: Any) -> dict[str, Any]:
    """An adapter_config.json as PEFT writes it, with `changes`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-base",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.05,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["q_proj", "up_proj"],
        "inference_mode": True,
        **changes,
    }


def lora_tensors(
    modules: Mapping[str, tuple[int, int]] = MODULES, rank: int = 2, fill: int = 1
) -> Tensors:
    """A [rank, in] and B [out, rank] in float32 of every module; all bytes are `fill`."""
    tensors: Tensors = {}
    for module, (in_features, out_features) in modules.items():
        prefix = f"base_model.model.{module}"
        for side, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            tensors[f"{prefix}.lora_{side}.weight"] = (
                "F32",
                shape,
                bytes([fill]) * (4 * math.prod(shape)),
            )
    return tensors


def safetensors_bytes(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file, the tensors in the order given."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + len(data)],
        }
        position += len(data)
    return raw_safetensors(json.dumps(header).encode()) + b"".join(t[2] for t in tensors.values())


def raw_safetensors(header: bytes, data: bytes = b"") -> bytes:
    """Length, header and data, whatever they are."""
    return len(header).to_bytes(8, "little") + header + data


def write_folder(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Tensors | None = None,
    fill: int = 1,
) -> Path:
    """A PEFT folder; sound unless `config` or `tensors` say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    document = lora_config() if config is None else config
    (folder / "adapter_config.json").write_text(json.dumps(document, indent=2))
    (folder / "adapter_model.safetensors").write_bytes(
        safetensors_bytes(lora_tensors(fill=fill) if tensors is None else tensors)
    )
    return folder


def manifest(name: str = "sql", **changes: Any) -> Manifest:
    """A manifest that knows only what it must."""
    facts = {"name": name, "created_unix_seconds": 1_700_000_000, "method": "lora", "rank": 2}
    return Manifest.model_validate({**facts, **changes})
