"""A PEFT folder of constant bytes, written without torch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_tiny_adapter(
    folder: Path, modules: Mapping[str, tuple[int, int]], *, fill: int, rank: int = 2
) -> Path:
    """A float32 LoRA over `modules` (name -> (in, out)) whose bytes are all `fill` (1 to 126)."""
    assert 1 <= fill <= 126, fill
    header: dict[str, Any] = {}
    position = 0
    for module, (num_in, num_out) in modules.items():
        for side, shape in (("A", (rank, num_in)), ("B", (num_out, rank))):
            end = position + 4 * math.prod(shape)
            header[f"base_model.model.{module}.lora_{side}.weight"] = {
                "dtype": "F32", "shape": list(shape), "data_offsets": [position, end],
            }  # fmt: skip
            position = end
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
    }
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = len(text).to_bytes(8, "little") + text + bytes([fill]) * position
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder
