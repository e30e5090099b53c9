"""What glibc's heap holds beside the tensors while a run trains on a CPU: holes.

Blocks from `MAPPED_FROM_BYTES` on are maps of their own and go when they are freed. A smaller one
leaves a hole between those that stay, which the tensors that come next seldom fill. Found by
comparing resident memory with what autograd holds; with every block from 1 MB on mapped the holes
are gone, and a step takes a third more time (docs/experiments.md).
"""

from adapters.base.host_memory import MAPPED_FROM_BYTES
from trainer.config import TrainerConfig
from trainer.methods.method import TrainingForward
from trainer.methods.model_shape import ModelShape
from trainer.prediction.activations import ForwardSize

_LAYER_TEMPORARIES = 8
"""Hidden states in the compute dtype: a layer's norms, rotations, sums and projections make about
so many that aren't kept. Of 460 to 2000 tokens with LoRA, QLoRA and full fine-tuning 6.7 to 8.2."""

_EVALUATION_TEMPORARIES = 2
"""Hidden states a layer. Nothing stays between them, but a heap that was given back is touched
anew in ever other places: 1.2 to 2.4 of them."""


def holes_of_training(
    config: TrainerConfig, shape: ModelShape, size: ForwardSize, element_bytes: int, is_lean: bool
) -> int:
    """When the backward of a forward of this size begins."""
    layers, hidden = shape.geometry.num_layers, shape.geometry.hidden
    total = layers * _LAYER_TEMPORARIES * _in_heap(element_bytes * size.tokens * hidden)
    forward = TrainingForward(shape, size.tokens, element_bytes, not size.row_tokens, is_lean)
    total += sum(map(_in_heap, config.training_method.passing_blocks(config, forward)))
    return total // layers if config.training.gradient_checkpointing else total


def holes_of_evaluation(shape: ModelShape, tokens: int, element_bytes: int) -> int:
    """At the logits of a forward of so many tokens without gradients."""
    hidden_states = _in_heap(tokens * shape.geometry.hidden * element_bytes)
    return shape.geometry.num_layers * _EVALUATION_TEMPORARIES * hidden_states


def holes_of_update(
    shape: ModelShape, kept: int, size: ForwardSize, element_bytes: int, gradients: int
) -> int:
    """At the optimiser's step: what the backward freed of `kept` and gradients don't fill."""
    if not _in_heap(size.tokens * shape.intermediate * element_bytes):
        return 0
    return max(0, kept - gradients)


def _in_heap(block_bytes: int) -> int:
    """A block's bytes if it is one of the heap, 0 if it is a map."""
    return block_bytes if block_bytes < MAPPED_FROM_BYTES else 0
