"""Peak memory of a run, counted from the shapes: the largest of the moments that each step has.

The head, the embeddings and the norms stay in the compute dtype beside 4-bit linears. Logits exist
only where a label is.
"""

from dataclasses import dataclass, fields, replace

from adapters.base.quantization import QuantizationSpec
from trainer.config import TrainerConfig
from trainer.methods.model_shape import ModelShape
from trainer.prediction.activations import ForwardSize, forward_only_bytes, kept_bytes
from trainer.prediction.heap import holes_of_evaluation, holes_of_training, holes_of_update

_BLOCKS_OF_ABSMAX = 256
"""absmax values that share one float32 scale under double quantisation (arXiv:2305.14314)."""

_LOSS_BYTES = 12
"""Of a logit when the backward begins: in float32 its log-probability and two gradients."""


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """The largest forwards of training and of evaluation."""

    training: ForwardSize
    evaluation: ForwardSize


@dataclass(frozen=True, slots=True)
class MemoryPrediction:
    """Bytes by what they are for, at the moment when they are most together; `process` is the
    interpreter with its libraries, `holes` what the heap holds beside the tensors.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    process: int = 0
    holes: int = 0

    @property
    def total(self) -> int:
        return sum(int(getattr(self, part.name)) for part in fields(self))


def weight_bytes(shape: ModelShape, spec: QuantizationSpec, element_bytes: int) -> int:
    """The base as it lies in memory: codes, scales, and what isn't quantised."""
    others = shape.other_parameters * element_bytes
    if not spec.is_quantized:
        return others + shape.linear_parameters * element_bytes
    return others + linear_4bit_bytes(shape, spec)


def linear_4bit_bytes(shape: ModelShape, spec: QuantizationSpec) -> int:
    """Codes and scales of the linears alone."""
    total = 0
    for inputs, outputs in shape.linears.values():
        count = inputs * outputs
        blocks = -(-count // spec.block_size)
        absmax = blocks + 4 * -(-blocks // _BLOCKS_OF_ABSMAX) if spec.double_quant else 4 * blocks
        total += count // 2 + absmax
    return total


def predict_memory(
    config: TrainerConfig,
    shape: ModelShape,
    spec: QuantizationSpec,
    sizes: BatchSizes,
    *,
    element_bytes: int,
    optimizer: str = "adamw_torch",
    process: int | None = None,
    is_lean: bool = False,
) -> MemoryPrediction:
    """The peak of training `config` on a base of this shape, held as `spec`.

    `element_bytes` are those of the compute dtype, `optimizer` transformers' name; `process` is
    None on a device, whose allocator holds tensors alone; `is_lean` says that LoRA's linears are
    `lean_lora`'s.
    """
    training, evaluation = sizes.training, sizes.evaluation
    is_full, is_host = config.training_method.trains_base, process is not None
    trained = config.training_method.count_in_shape(config, shape)
    weights = 4 * trained if is_full else weight_bytes(shape, spec, element_bytes)
    between_steps = MemoryPrediction(
        weights=weights,
        adapter=0 if is_full else 4 * trained,
        gradients=0,
        optimizer=(2 if "8bit" in optimizer else 8) * trained,
        activations=0,
        logits=0,
        process=process or 0,
    )
    kept = kept_bytes(config, shape, training, element_bytes, is_lean)
    left = holes_of_training(config, shape, training, element_bytes, is_lean) if is_host else 0
    # The backward begins. Gradients are there when a forward before it was of the same step.
    backward = replace(
        between_steps,
        gradients=4 * trained if config.training.gradient_accumulation > 1 else 0,
        activations=kept,
        logits=training.loss_tokens * shape.rows * _LOSS_BYTES,
        holes=left,
    )
    # The optimiser steps; it needs room for the largest tensor twice.
    embedding = shape.rows * shape.geometry.hidden
    small = kept - 2 * embedding if is_full else kept
    gradients = 4 * (trained - embedding if is_full else trained)
    update = replace(
        between_steps,
        gradients=4 * trained,
        activations=2 * 4 * embedding if is_full else 0,
        holes=left + holes_of_update(shape, small, training, element_bytes, gradients)
        if is_host
        else 0,
    )
    # The logits of an evaluation, and two tensors as large in float32.
    logit_bytes = 8 + (element_bytes if element_bytes < 4 else 0)
    evaluating = replace(
        between_steps,
        activations=forward_only_bytes(shape, evaluation.tokens, element_bytes),
        logits=evaluation.loss_tokens * shape.rows * logit_bytes,
        holes=holes_of_evaluation(shape, evaluation.tokens, element_bytes) if is_host else 0,
    )
    return max(backward, update, evaluating, key=lambda moment: moment.total)
