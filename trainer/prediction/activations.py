"""What a training forward keeps for its backward, counted tensor by tensor from the shapes.

A frozen linear keeps no input. An adapted one keeps its input in float32, which PEFT casts it to;
`lean_lora` keeps it as it is, once for all linears that read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.config import TrainerConfig
from trainer.config.method import PROMPT_FAMILY
from trainer.methods.targets import ia3_targets, match_modules, matches_any, rank_of
from trainer.prediction.model_shape import ModelShape

_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense")
"""Attention's last linear, which reads attention's output and not what the others read."""


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
    layers, tokens = shape.geometry.num_layers, size.tokens
    if config.method in PROMPT_FAMILY:
        # Each row has its own virtual tokens; a row of the plan has about a hundred of its own.
        tokens += tokens * config.prompt.num_virtual_tokens // 100
    kept = layers * (
        _layer_bytes(shape, tokens, element_bytes, is_masked=size.row_tokens > 0)
        + tokens * size.row_tokens * element_bytes
    )
    if config.method == "full":
        kept += _full_inputs(shape, tokens)
    elif is_lean:
        kept += _lean_inputs(config, shape, tokens, element_bytes, is_packed=not size.row_tokens)
    else:
        kept += _adapter_inputs(config, shape, tokens, element_bytes)
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


def _adapter_inputs(
    config: TrainerConfig, shape: ModelShape, tokens: int, element_bytes: int
) -> int:
    """What linears adapted by PEFT keep: their input in float32, the dropout's mask, A's output."""
    if config.method in PROMPT_FAMILY:
        return 0
    matched = match_modules(config, shape.linears)
    if config.method == "ia3":
        # What is scaled, in float32: the input of a feed-forward module, the output of others.
        _, feedforward = ia3_targets(config, matched)
        return tokens * sum(
            4 * (inputs if matches_any(name, feedforward) else outputs)
            for name, (inputs, outputs) in matched.items()
        )
    # Off CUDA a dropout mask is as wide as what it masks.
    mask = 4 if config.lora.dropout else 0
    per_token = 0
    for name, (inputs, _) in matched.items():
        per_token += (4 + mask) * inputs + 4 * rank_of(config, name)
    if config.method == "dora" or config.lora.use_dora:
        # The magnitudes multiply the base's and the adapter's output, both of which are kept. With
        # dropout PEFT computes the base's anew, in float32.
        per_output = 4 + (4 if config.lora.dropout else element_bytes)
        per_token += sum(per_output * outputs for _, outputs in matched.values())
    return tokens * per_token


def _full_inputs(shape: ModelShape, tokens: int) -> int:
    """Under autocast: each linear's input in bfloat16, attention's output being one already; what
    each norm multiplies in float32; the bfloat16 copies of the weights, the head's too.
    """
    inputs = sum(
        2 * inputs
        for name, (inputs, _) in shape.linears.items()
        if not name.endswith(_OUTPUT_PROJECTIONS)
    )
    hidden = shape.geometry.hidden
    # With the one before the head; of a frozen base the first keeps nothing, so that makes up.
    norms = 2 * 4 * hidden * shape.geometry.num_layers + 2 * 4 * hidden
    copies = 2 * (shape.linear_parameters + shape.rows * hidden)
    return tokens * (inputs + norms) + copies


def _lean_inputs(
    config: TrainerConfig, shape: ModelShape, tokens: int, element_bytes: int, *, is_packed: bool
) -> int:
    """What `lean_lora` keeps: an input as it is, once for all linears that read it, and A's output;
    with dropout an input and a mask for each linear.
    """
    matched = match_modules(config, shape.linears)
    per_token = sum(rank_of(config, name) for name in matched)
    if config.lora.dropout:
        per_token += sum(2 * inputs for inputs, _ in matched.values())
        return tokens * per_token * element_bytes
    readers: dict[tuple[str, int], list[str]] = {}
    for name, (inputs, _) in matched.items():
        readers.setdefault((name.rpartition(".")[0], inputs), []).append(name)
    for (_, inputs), names in readers.items():
        per_token += inputs * _num_inputs(names, is_packed)
    return tokens * per_token * element_bytes


def _num_inputs(names: Sequence[str], is_packed: bool) -> int:
    """Different tensors that these linears of one module and one width read, beside attention's
    output, which is counted there unless packed rows were put together to a new one.
    """
    outputs = [name for name in names if name.endswith(_OUTPUT_PROJECTIONS)]
    is_attention = bool(outputs) and len(names) > len(outputs)
    return (1 + is_packed) if is_attention else 1
