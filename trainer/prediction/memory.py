"""Peak memory of a run, counted tensor by tensor from the shapes.

What is counted is what our loop keeps: a frozen linear keeps no input, an adapted one its input in
float32 (PEFT casts it; on a CPU `lean_lora` doesn't), logits exist only where a label is. The head,
the embeddings and the norms stay in the compute dtype beside 4-bit linears.
"""

from dataclasses import dataclass, fields

from adapters.base.quantization import QuantizationSpec
from trainer.config import TrainerConfig
from trainer.config.method import PROMPT_FAMILY
from trainer.methods.targets import count_parameters, match_modules, rank_of
from trainer.prediction.model_shape import ModelShape

_BLOCKS_OF_ABSMAX = 256
"""absmax values that share one float32 scale under double quantisation (arXiv:2305.14314)."""

_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense")
"""Attention's last linear, which reads its output and not what the others read."""


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Tokens of the largest forward of training and of evaluation, and those that carry loss."""

    train_tokens: int
    train_loss_tokens: int
    eval_tokens: int
    eval_loss_tokens: int


@dataclass(frozen=True, slots=True)
class MemoryPrediction:
    """Bytes by what they are for. Activations and logits are those of the larger of a training
    step and an evaluation; `process` is the interpreter with its libraries.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    process: int = 0

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
    process: int = 0,
    is_lean: bool = False,
) -> MemoryPrediction:
    """The peak of training `config` on a base of this shape, held as `spec`.

    `element_bytes` are those of the compute dtype, `optimizer` transformers' name; `is_lean` says
    that LoRA's linears are `lean_lora`'s.
    """
    is_full = config.method == "full"
    if is_full:
        trained = shape.num_parameters
        weights = 4 * trained
    else:
        trained = count_parameters(config, match_modules(config, shape.linears), shape.geometry)
        weights = weight_bytes(shape, spec, element_bytes)
    training = _activations(config, shape, sizes.train_tokens, element_bytes, is_lean)
    training_logits = sizes.train_loss_tokens * shape.rows * (element_bytes + 16)
    evaluating = _forward_only(shape, sizes.eval_tokens, element_bytes)
    evaluating_logits = sizes.eval_loss_tokens * shape.rows * (element_bytes + 8)
    if evaluating + evaluating_logits > training + training_logits:
        training, training_logits = evaluating, evaluating_logits
    moments = 2 if "8bit" in optimizer else 8
    return MemoryPrediction(
        weights=weights,
        adapter=0 if is_full else 4 * trained,
        gradients=4 * trained,
        optimizer=moments * trained,
        activations=training,
        logits=training_logits,
        process=process,
    )


def _activations(
    config: TrainerConfig, shape: ModelShape, tokens: int, element_bytes: int, is_lean: bool
) -> int:
    """What the backward needs of one forward, plus one dequantised weight."""
    layers = shape.geometry.num_layers
    if config.method in PROMPT_FAMILY:
        # Each row has its own virtual tokens; a row of the plan has about a hundred of its own.
        tokens += tokens * config.prompt.num_virtual_tokens // 100
    kept = layers * _layer_bytes(shape, tokens, element_bytes)
    kept += (
        _lean_inputs(config, shape, tokens, element_bytes)
        if is_lean
        else _adapter_inputs(config, shape, tokens)
    )
    if config.method not in PROMPT_FAMILY:
        # Nothing before the first adapter needs a gradient: a layer's worth of norms and base.
        kept -= kept // (2 * layers)
    largest = max(inputs * outputs for inputs, outputs in shape.linears.values())
    if config.training.gradient_checkpointing:
        # The input of every layer, and one layer at a time in full.
        kept = kept // layers + layers * tokens * shape.geometry.hidden * element_bytes
    return kept + largest * element_bytes


def _layer_bytes(shape: ModelShape, tokens: int, element_bytes: int) -> int:
    """Two norms' inputs in float32; queries, keys, values and output of attention with its log
    sums; gate, its activation and up of the MLP.
    """
    hidden, width = shape.geometry.hidden, shape.attention_width
    norms = 2 * hidden * 4
    attention = 2 * (width + shape.geometry.key_width) * element_bytes + 4 * shape.num_heads
    mlp = 3 * shape.intermediate * element_bytes
    return tokens * (norms + attention + mlp)


def _adapter_inputs(config: TrainerConfig, shape: ModelShape, tokens: int) -> int:
    """What adapted linears keep: their input in float32, the dropout's mask, and A's output."""
    if config.method in PROMPT_FAMILY:
        return 0
    matched = match_modules(config, shape.linears)
    if config.method == "full":  # autocast keeps every input in the compute dtype
        return tokens * sum(2 * inputs for inputs, _ in matched.values())
    if config.method == "ia3":
        return tokens * sum(2 * max(inputs, outputs) for inputs, outputs in matched.values())
    # Off CUDA a dropout mask is as wide as what it masks.
    mask = 4 if config.lora.dropout else 0
    per_token = 0
    for name, (inputs, _) in matched.items():
        per_token += (4 + mask) * inputs + 4 * rank_of(config, name)
    if config.method == "dora" or config.lora.use_dora:
        # The magnitudes multiply the base's and the adapter's output, both of which are kept.
        per_token += sum(8 * outputs for _, outputs in matched.values())
    return tokens * per_token


def _lean_inputs(config: TrainerConfig, shape: ModelShape, tokens: int, element_bytes: int) -> int:
    """What `lean_lora` keeps: an input as it is, once for all linears that read it, and A's output;
    with dropout an input and a mask for each linear.
    """
    matched = match_modules(config, shape.linears)
    per_token = sum(rank_of(config, name) for name in matched)
    if config.lora.dropout:
        per_token += sum(2 * inputs for inputs, _ in matched.values())
    else:
        # Of a module's linears the last one, its output projection, reads what no other reads.
        readers: dict[tuple[str, int], list[str]] = {}
        for name, (inputs, _) in matched.items():
            readers.setdefault((name.rpartition(".")[0], inputs), []).append(name)
        for (_, inputs), names in readers.items():
            has_output = len(names) > 1 and names[-1].endswith(_OUTPUT_PROJECTIONS)
            per_token += inputs * (2 if has_output else 1)
    return tokens * per_token * element_bytes


def _forward_only(shape: ModelShape, tokens: int, element_bytes: int) -> int:
    """The widest moment of a layer without gradients: the MLP's three inner tensors."""
    return tokens * (3 * shape.intermediate + 2 * shape.geometry.hidden) * element_bytes
