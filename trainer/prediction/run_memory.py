"""The memory prediction of one prepared run, on this machine, in this process."""

from collections.abc import Sequence

import psutil
import torch
from transformers import AutoConfig

from trainer.batching import group_by_length
from trainer.labels import LabelledRow
from trainer.methods.lean_lora import is_lean_config
from trainer.prediction.memory import BatchSizes, MemoryPrediction, predict_memory, weight_bytes
from trainer.prediction.model_shape import shape_of
from trainer.preflight import Preflight
from trainer.training_arguments import choose_optimizer, resolve_device


def predict_run_memory(ready: Preflight) -> MemoryPrediction:
    """What the run will hold at its peak, the base being loaded and nothing attached yet.

    On a CPU `process` is what is resident now beside the weights: interpreter, libraries, data.
    On CUDA it is 0: the device's allocator holds none of it.
    """
    config, base = ready.config, ready.base
    device = resolve_device(config)
    shape = shape_of(config.base, AutoConfig.from_pretrained(str(base.resolved.path)))
    element_bytes = torch.empty((), dtype=base.model.dtype).element_size()
    held = weight_bytes(shape, base.quantization, element_bytes)
    resident = int(psutil.Process().memory_info().rss)
    return predict_memory(
        config,
        shape,
        base.quantization,
        batch_sizes(ready),
        # Full fine-tuning computes in bfloat16 over float32 weights.
        element_bytes=2 if config.method == "full" else element_bytes,
        optimizer=choose_optimizer(config.training.optimizer, device),
        process=max(0, resident - held) if device == "cpu" else 0,
        is_lean=device == "cpu" and is_lean_config(config),
    )


def batch_sizes(ready: Preflight) -> BatchSizes:
    """The largest forwards of the plan and of an evaluation, in tokens with padding."""
    train, held_out = ready.data.train.rows, ready.data.held_out.rows
    eval_batches = group_by_length(
        [len(row) for row in held_out], ready.config.evaluation.batch_tokens
    )
    return BatchSizes(
        train_tokens=max(
            sum(len(train[i]) for i in batch) if ready.plan.packing else _padded(train, batch)
            for batch in ready.plan.batches
        ),
        train_loss_tokens=max(_carrying_loss(train, batch) for batch in ready.plan.batches),
        eval_tokens=max(_padded(held_out, batch) for batch in eval_batches),
        eval_loss_tokens=max(_carrying_loss(held_out, batch) for batch in eval_batches),
    )


def _padded(rows: Sequence[LabelledRow], batch: Sequence[int]) -> int:
    return max(len(rows[index]) for index in batch) * len(batch)


def _carrying_loss(rows: Sequence[LabelledRow], batch: Sequence[int]) -> int:
    return sum(rows[index].num_loss_tokens for index in batch)
