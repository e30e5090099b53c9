"""Adapters of PEFT's dense methods over a tiny base, and what PEFT's own model says of each."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from adapters.base.dense import make_dense
from adapters.base.loading import load_base
from adapters.base.quantization import NF4

TARGETS = ("q_proj", "v_proj", "down_proj")
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "OFT": {"oft_block_size": 16},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "VERA": {"r": 16},
    "FOURIERFT": {"n_frequency": 20},
    "BOFT": {"boft_block_size": 4},
    "HIRA": {},
    "WAVEFT": {"n_frequency": 64},
    "SHIRA": {},
    "C3A": {"block_size": 16},
    "OSF": {},
    "FROD": {},
    "MISS": {},
    "GRALORA": {},
    "RANDLORA": {"r": 8},
    "GLORA": {},
    "DELORA": {},
    "DEFT": {},
    "HRA": {},
    "ROAD": {},
    "PSOFT": {},
    "PVERA": {"r": 16},
    "TINYLORA": {},
    "UNILORA": {},
    "VBLORA": {"r": 2, "vector_length": 32, "num_vectors": 8},
}
"""Every method that is folded, and what its config needs on 64 inputs."""


def dense_base(base: Path) -> Any:
    """The base with the values that a server of 4 bits computes with."""
    model = load_base(str(base), NF4, dtype=torch.float32).model
    make_dense(model)
    return model


def make_dense_adapter(method: str, base: Path, folder: Path) -> Path:
    """Save an adapter with an effect."""
    spread = 0.3 if method == "UNILORA" else 0.02
    torch.manual_seed(0)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[method](
        task_type="CAUSAL_LM", target_modules=list(TARGETS), **OPTIONS[method]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(dense_base(base), config)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data += spread * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def dense_logits(base: Path, folder: Path | None, prompt: list[int]) -> torch.Tensor:
    """PEFT's next-token logits [vocabulary], or the base's own."""
    model = dense_base(base)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = model if folder is None else PeftModel.from_pretrained(model, folder).eval()
        logits: torch.Tensor = model(input_ids=torch.tensor([prompt])).logits
    return logits[0, -1]
