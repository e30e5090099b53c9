"""PEFT's own mixed batch, `generate(adapter_names=[...])`, on the same NF4 base: what to beat.

It gets its best fair setting: all cores, left padding as it asks for, a warm-up, and the fastest of
three settings counts: bitsandbytes' fused CPU path with the adapters in the base's dtype and with
them in float32 (PEFT's default), and dequantise + matmul. Nothing else may run meanwhile.
"""

import gc
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.base.loading import LoadedBase, load_base
from adapters.base.training_guard import prepare_for_training
from loadtests.harness.closed_loop import prompt_text

_WARM_UP_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Setting:
    """`fused`: bitsandbytes may repack for its fused kernel; `casts`: adapters go to float32."""

    name: str
    fused: bool
    casts: bool


SETTINGS = (
    Setting("bitsandbytes fused, adapters in the base's dtype", fused=True, casts=False),
    Setting("bitsandbytes fused, adapters in float32", fused=True, casts=True),
    Setting("dequantise + matmul, adapters in the base's dtype", fused=False, casts=False),
)


@dataclass(frozen=True, slots=True)
class PeftResult:
    """One setting's speed; tokens are the new ones, time is that of the whole `generate`."""

    setting: str
    num_rows: int
    num_tokens: int
    wall_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.wall_seconds


def measure_peft(
    base_reference: str,
    folders: Mapping[str, Path],
    num_rows: int,
    num_new_tokens: int,
    setting: Setting,
) -> PeftResult:
    """One setting on a freshly loaded base. Row i runs adapter `i % len(folders)`, greedily."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    base = load_base(base_reference)
    if not setting.fused:
        prepare_for_training(base.model)  # keeps bitsandbytes from packing for its fused kernel
    model = _with_adapters(base, folders, setting)
    names = [list(folders)[row % len(folders)] for row in range(num_rows)]
    inputs = _padded_prompts(base, num_rows)
    _generate(model, inputs, names, _WARM_UP_TOKENS)
    started = time.perf_counter()
    output = _generate(model, inputs, names, num_new_tokens)
    wall = time.perf_counter() - started
    num_tokens = (output.shape[1] - inputs["input_ids"].shape[1]) * num_rows
    del model, base
    gc.collect()
    return PeftResult(setting.name, num_rows, int(num_tokens), wall)


def _with_adapters(base: LoadedBase, folders: Mapping[str, Path], setting: Setting) -> Any:
    from peft import PeftModel

    options = {"autocast_adapter_dtype": setting.casts, "low_cpu_mem_usage": True}
    (first, folder), *others = folders.items()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's use of transformers, not ours
        model = PeftModel.from_pretrained(base.model, str(folder), adapter_name=first, **options)
        for name, other in others:
            model.load_adapter(str(other), adapter_name=name, **options)
    return model.eval()


def _padded_prompts(base: LoadedBase, num_rows: int) -> Any:
    tokenizer = base.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    chats = [[{"role": "user", "content": prompt_text(row)}] for row in range(num_rows)]
    return tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )


def _generate(
    model: Any, inputs: Any, adapter_names: Sequence[str], num_new_tokens: int
) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = model.generate(
            **inputs,
            adapter_names=list(adapter_names),
            do_sample=False,
            min_new_tokens=num_new_tokens,
            max_new_tokens=num_new_tokens,
        )
    return output
