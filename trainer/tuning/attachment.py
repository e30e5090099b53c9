"""Puts a fresh adapter on a base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from adapters.base.loading import LoadedBase
from adapters.base.modules import linear_modules
from trainer.config import TrainerConfig
from trainer.data.labels import LabelledRow
from trainer.errors import MethodError
from trainer.methods.method import AdapterMethod
from trainer.methods.targets import BaseGeometry
from trainer.tuning.peft_loading import keep_dtypes
from trainer.tuning.tuning import Tuning


@dataclass(frozen=True)
class RunStart:
    """What a run begins with. `num_steps` are its optimiser steps, `rows` its training rows."""

    base: LoadedBase
    config: TrainerConfig
    num_steps: int
    rows: Sequence[LabelledRow] = ()
    pad_id: int = 0


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
    torch.manual_seed(config.seed)
    return config.training_method.attach(RunStart(base, config, num_steps, rows, pad_id))


def put_on_base(method: AdapterMethod, start: RunStart, *, low_cpu_mem_usage: bool = False) -> Any:
    """PEFT's model of `method` on the base; with `low_cpu_mem_usage` its tensors are on no device.

    Raises `MethodError` for a base that PEFT can't put it on.
    """
    import_bitsandbytes()  # PEFT imports it too; this way it asks no hub for kernels
    from peft import get_peft_model

    model, config = start.base.model, start.config
    peft_config = method.peft_config(
        config,
        linear_modules(model),
        BaseGeometry.of(model.config),
        num_steps=start.num_steps,
        is_transposed=has_transposed_linears(model),
    )
    try:
        peft_model = get_peft_model(model, peft_config, low_cpu_mem_usage=low_cpu_mem_usage)
    except ValueError as error:
        raise MethodError(f"{config.method} can't be put on {config.base}: {error}") from error
    peft_model.peft_config["default"].base_model_name_or_path = config.base
    keep_dtypes(peft_model)
    return peft_model


def has_transposed_linears(model: nn.Module) -> bool:
    """Whether the linears hold their weights as (in, out): GPT-2's, unless quantised."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())
