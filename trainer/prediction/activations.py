"""What a training forward keeps for its backward, counted tensor by tensor from the shapes.

A frozen base's part is here; what a method adds to it, its record says.
"""

from dataclasses import dataclass

from trainer.config import TrainerConfig
from trainer.methods.method import TrainingForward
from trainer.methods.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class ForwardSize:
    """Tokens of a forward with padding, those that carry loss, and the longest row's; 0 there for
    packed rows, which attend without a mask.
    """

    tokens: int
    loss_tokens: int
    row_tokens: int = 0


def kept_bytes(
    config: TrainerConfig, shape: ModelShape, size: ForwardSize, element_bytes: int, is_lean: bool
) -> int:
    """What the backward needs of one forward, logits apart, and one dequantised weight."""
    layers, method = shape.geometry.num_layers, config.training_method
    tokens = method.padded_tokens(config, size.tokens)
    kept = layers * (
        _layer_bytes(shape, tokens, element_bytes, is_masked=size.row_tokens > 0)
        + tokens * size.row_tokens * element_bytes
    )
    forward = TrainingForward(shape, tokens, element_bytes, not size.row_tokens, is_lean)
    kept += method.kept_bytes(config, forward)
    largest = max(inputs * outputs for inputs, outputs in shape.linears.values())
    if config.training.gradient_checkpointing:
        # The input of every layer, and one layer at a time in full.
        kept = kept // layers + layers * tokens * shape.geometry.hidden * element_bytes
    return kept + largest * element_bytes


def forward_only_bytes(shape: ModelShape, tokens: int, element_bytes: int) -> int:
    """The widest moment of a layer without gradients: the MLP's three inner tensors."""
    return tokens * (3 * shape.intermediate + 2 * shape.geometry.hidden) * element_bytes


def _layer_bytes(shape: ModelShape, tokens: int, element_bytes: int, *, is_masked: bool) -> int:
    """Two norms' inputs in float32; queries, keys, values and output of attention with its log
    sums; gate, its activation and up of the MLP. Under a mask keys and values are repeated for
    every head.
    """
    hidden, width = shape.geometry.hidden, shape.attention_width
    key_width = width if is_masked else shape.geometry.key_width
    norms = 2 * hidden * 4
    attention = 2 * (width + key_width) * element_bytes + 4 * shape.num_heads
    mlp = 3 * shape.intermediate * element_bytes
    return tokens * (norms + attention + mlp)
