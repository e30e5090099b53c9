"""Puts a fresh adapter on a base."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.base.loading import LoadedBase
from adapters.base.modules import linear_modules
from trainer.collator import collate_rows
from trainer.config import TrainerConfig
from trainer.config.method import QUANTIZATION_INITS
from trainer.errors import MethodError
from trainer.labels import LabelledRow
from trainer.methods.adalora import AdaloraTuning
from trainer.methods.calibration import calibration_rows
from trainer.methods.lean_lora import make_lora_lean
from trainer.methods.peft_config import peft_config_for
from trainer.methods.peft_loading import keep_dtypes
from trainer.methods.started import StartedTuning
from trainer.methods.starting_point import (
    begin_at_base,
    begin_at_quantization_error,
    changes_the_base,
)
from trainer.methods.targets import BaseGeometry
from trainer.methods.tuning import FullTuning, Tuning

_EVA_BATCH_ROWS = 8


def attach_adapter(
    base: LoadedBase,
    config: TrainerConfig,
    *,
    num_steps: int,
    rows: Sequence[LabelledRow] = (),
    pad_id: int = 0,
) -> Tuning:
    """Wrap the base's model with a fresh adapter in float32, drawn from `config.seed`.

    The fresh adapter of a LoRA method changes nothing; one of a prompt method does. The base's
    model is changed in place. `num_steps` are the run's optimiser steps; `rows` are looked at by
    `lora.init: eva`, `corda` and `qera` alone. Raises `MethodError` for a base that the method
    doesn't fit.
    """
    model = base.model
    torch.manual_seed(config.seed)
    if config.method == "full":
        model.requires_grad_(True)
        return FullTuning(model, config)
    import_bitsandbytes()  # PEFT imports it too; this way it asks no hub for kernels
    from peft import get_peft_model

    peft_config = peft_config_for(
        config,
        linear_modules(model),
        BaseGeometry.of(model.config),
        num_steps=num_steps,
        is_transposed=has_transposed_linears(model),
    )
    try:
        # EVA's A is made later; PEFT wants it on no device until then.
        is_eva = config.lora.init == "eva"
        peft_model = get_peft_model(model, peft_config, low_cpu_mem_usage=is_eva)
    except ValueError as error:
        raise MethodError(f"{config.method} can't be put on {config.base}: {error}") from error
    peft_model.peft_config["default"].base_model_name_or_path = config.base
    keep_dtypes(peft_model)
    if config.method == "adalora":
        return AdaloraTuning(peft_model, config)
    init = config.lora.init
    if config.prompt.init_text is not None:
        _begin_at_text(peft_model, base, config.prompt.init_text)
    if init == "eva":
        _begin_at_activations(peft_model, rows, pad_id)
    elif init in QUANTIZATION_INITS:
        begin_at_quantization_error(peft_model, init, base.resolved.path, rows)
    elif changes_the_base(init):
        begin_at_base(peft_model, init, rows)
        return StartedTuning(peft_model, config)
    make_lora_lean(peft_model)
    return Tuning(peft_model, config)


def has_transposed_linears(model: nn.Module) -> bool:
    """Whether the linears hold their weights as (in, out): GPT-2's, unless quantised."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


def _begin_at_text(peft_model: Any, base: LoadedBase, text: str) -> None:
    """Write the embeddings of `text`, repeated or cut to fit, over the virtual tokens."""
    ids = base.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise MethodError(f"prompt.init_text: the tokenizer makes nothing of {text!r}")
    embedding = peft_model.prompt_encoder["default"].embedding.weight
    count = embedding.shape[0]
    repeated = torch.tensor((ids * (count // len(ids) + 1))[:count])
    words = base.model.get_input_embeddings()
    with torch.no_grad():
        embedding.copy_(words(repeated.to(words.weight.device)))


def _begin_at_activations(peft_model: Any, rows: Sequence[LabelledRow], pad_id: int) -> None:
    """EVA: A begins at the main directions of what each module sees."""
    from peft import initialize_lora_eva_weights

    chosen = calibration_rows("eva", rows)
    batches: list[Mapping[str, torch.Tensor]] = []
    for begin in range(0, len(chosen), _EVA_BATCH_ROWS):
        batch = collate_rows(chosen[begin : begin + _EVA_BATCH_ROWS], pad_id)
        batches.append({name: batch[name] for name in ("input_ids", "attention_mask")})
    initialize_lora_eva_weights(peft_model, batches, show_progress_bar=False)
    peft_model.train()
