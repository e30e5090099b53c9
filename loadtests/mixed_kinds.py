"""Random adapters of every kind in turn, of a real shape, for measuring speed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapters.base.reference import resolve_base

Tensors = dict[str, torch.Tensor]

KINDS = ("lora", "dora", "ia3", "prompt_tuning", "lora_bias", "prefix_tuning")
_NUM_VIRTUAL = 16
_SMALL = 0.01  # enough to change what a greedy answer says


class MixedKinds:
    """Writes PEFT folders over one base."""

    def __init__(self, base: str, shapes: Mapping[str, tuple[int, int]], rank: int) -> None:
        from transformers import AutoConfig

        self._base = base
        self._config: Any = AutoConfig.from_pretrained(str(resolve_base(base).path))
        self._shapes = shapes
        self._rank = rank

    def write(self, folder: Path, index: int) -> Path:
        """The folder of adapter number `index`, the same for the same number."""
        kind = KINDS[index % len(KINDS)]
        generator = torch.Generator().manual_seed(index)
        make = {"ia3": self._ia3, "prompt_tuning": self._prompt, "prefix_tuning": self._prefix}
        config, tensors = make.get(kind, lambda g: self._lora(kind, g))(generator)
        folder.mkdir(parents=True, exist_ok=True)
        document = {"task_type": "CAUSAL_LM", "base_model_name_or_path": self._base, **config}
        (folder / "adapter_config.json").write_text(json.dumps(document, indent=2))
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, folder / "adapter_model.safetensors"
        )
        return folder

    def _targets(self) -> list[str]:
        return sorted({name.rpartition(".")[2] for name in self._shapes})

    def _lora(self, kind: str, generator: torch.Generator) -> tuple[dict[str, Any], Tensors]:
        tensors: Tensors = {}
        for name, (num_inputs, num_outputs) in self._shapes.items():
            prefix = f"base_model.model.{name}"
            a = torch.randn(self._rank, num_inputs, generator=generator) / num_inputs**0.5
            b = torch.randn(num_outputs, self._rank, generator=generator) * _SMALL
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
            if kind == "dora":
                tensors[f"{prefix}.lora_magnitude_vector"] = torch.ones(num_outputs)
            if kind == "lora_bias":
                bias = torch.randn(num_outputs, generator=generator) * _SMALL
                tensors[f"{prefix}.lora_B.bias"] = bias
        return {
            "peft_type": "LORA",
            "r": self._rank,
            "lora_alpha": 2 * self._rank,
            "use_dora": kind == "dora",
            "lora_bias": kind == "lora_bias",
            "target_modules": self._targets(),
        }, tensors

    def _ia3(self, generator: torch.Generator) -> tuple[dict[str, Any], Tensors]:
        tensors: Tensors = {}
        for name, (num_inputs, num_outputs) in self._shapes.items():
            is_down = name.endswith("down_proj")
            if not is_down and not name.endswith(("k_proj", "v_proj")):
                continue
            shape = (1, num_inputs) if is_down else (num_outputs, 1)
            values = 1.0 + torch.randn(shape, generator=generator) * 10 * _SMALL
            tensors[f"base_model.model.{name}.ia3_l"] = values
        targets = ["k_proj", "v_proj", "down_proj"]
        return {
            "peft_type": "IA3",
            "target_modules": targets,
            "feedforward_modules": ["down_proj"],
        }, tensors

    def _prompt(self, generator: torch.Generator) -> tuple[dict[str, Any], Tensors]:
        size = self._config.hidden_size
        rows = torch.randn(_NUM_VIRTUAL, size, generator=generator) * 0.1
        return self._virtual("PROMPT_TUNING", size), {"prompt_embeddings": rows}

    def _prefix(self, generator: torch.Generator) -> tuple[dict[str, Any], Tensors]:
        config = self._config
        head_dim = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        size = config.num_key_value_heads * head_dim
        width = 2 * config.num_hidden_layers * size
        rows = torch.randn(_NUM_VIRTUAL, width, generator=generator) * 0.1
        return self._virtual("PREFIX_TUNING", size), {"prompt_embeddings": rows}

    def _virtual(self, method: str, token_dim: int) -> dict[str, Any]:
        return {
            "peft_type": method,
            "num_virtual_tokens": _NUM_VIRTUAL,
            "token_dim": token_dim,
            "num_layers": self._config.num_hidden_layers,
        }
