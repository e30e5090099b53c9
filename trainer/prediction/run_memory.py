"""The memory prediction of one prepared run, on this machine, in this process."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from adapters.base.host_memory import return_freed_memory
from trainer.batches.batching import group_by_length
from trainer.data.examples import Examples
from trainer.loop.training_arguments import choose_optimizer, resolve_device
from trainer.methods.model_shape import shape_of
from trainer.prediction.activations import ForwardSize
from trainer.prediction.memory import BatchSizes, MemoryPrediction, predict_memory, weight_bytes
from trainer.preflight.prepare import Preflight
from trainer.tuning.lean_lora import is_lean_config

_PAGE_BYTES = 4096


def predict_run_memory(ready: Preflight) -> MemoryPrediction:
    """What the run will hold at its peak, the base being loaded and nothing attached yet.

    On a CPU `process` is what is resident now beside the weights: interpreter, libraries, data.
    Holes of the heap are given back first, as when training begins. On CUDA there is
    nothing of it: the device's allocator holds tensors alone.
    """
    config, base = ready.config, ready.base
    device = resolve_device(config.training.device)
    shape = shape_of(config.base, AutoConfig.from_pretrained(str(base.resolved.path)))
    element_bytes = torch.empty((), dtype=base.model.dtype).element_size()
    held = weight_bytes(shape, base.quantization, element_bytes)
    return_freed_memory()
    _read_all(base.model)
    resident = int(psutil.Process().memory_info().rss)
    return predict_memory(
        config,
        shape,
        base.quantization,
        batch_sizes(ready),
        # Over trained weights in float32 it computes in bfloat16.
        element_bytes=2 if config.training_method.trains_base else element_bytes,
        optimizer=choose_optimizer(config.training.optimizer, device),
        process=max(0, resident - held) if device == "cpu" else None,
        is_lean=device == "cpu" and is_lean_config(config),
    )


def _read_all(model: Any) -> None:
    """Weights that are a map of their file are resident once they are read: a word a page does."""
    words = _PAGE_BYTES // 2
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.detach().reshape(-1)[::words].max()


def batch_sizes(ready: Preflight) -> BatchSizes:
    """The largest forwards of the plan and of an evaluation, in tokens with padding."""
    train, held_out = ready.data.train, ready.data.held_out
    packing = ready.plan.packing
    training = [_forward_size(train, batch, is_packed=packing) for batch in ready.plan.batches]
    eval_batches = group_by_length(held_out.lengths.tolist(), ready.config.evaluation.batch_tokens)
    return BatchSizes(
        training=_largest(training),
        evaluation=_largest([_forward_size(held_out, batch) for batch in eval_batches]),
    )


def _forward_size(
    examples: Examples, batch: Sequence[int], *, is_packed: bool = False
) -> ForwardSize:
    lengths = examples.lengths[list(batch)]
    longest = int(lengths.max())
    return ForwardSize(
        tokens=int(lengths.sum()) if is_packed else longest * len(batch),
        loss_tokens=int(examples.loss_counts[list(batch)].sum()),
        row_tokens=0 if is_packed else longest,
    )


def _largest(sizes: Sequence[ForwardSize]) -> ForwardSize:
    """The forward of most tokens, with as many that carry loss as any of them has."""
    largest = max(sizes, key=lambda size: size.tokens)
    return replace(largest, loss_tokens=max(size.loss_tokens for size in sizes))
