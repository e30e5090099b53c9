"""What a step needs of a model, learned by running a few tokens through it.

Which layers keep keys and values, and of what shape; which keep a recurrent state; which linears
see only the tokens whose logits are wanted. And whether a step over many sequences computes what
transformers computes for each: where a layer attends in a way that the paged cache doesn't serve,
the reason is told, and each sequence then runs through transformers' own attention.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from adapters.base.modules import linear_modules
from server.core.errors import UnsupportedModelError
from server.model.forward.attention_interface import UnpagedAttentionError
from server.model.forward.row_by_row import UnslicedInputError
from server.model.forward.step_cache import ProbeCache
from server.model.forward.step_context import StepContext
from server.model.geometry import AttentionOptions, LayerAttention

_NUM_TOKENS = 3

_PAGED_LAYERS = {"full_attention", "sliding_attention", "attention", "hybrid"}
"""Types of attention layers whose scores our attention function is told all about."""

_STATELESS_LAYERS = {"mlp", "moe"}

_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True)
class ProbedModel:
    """`layers` are those that attend, by index; `state_users` the modules that keep a state.

    `keeps_all_logits` says that linears beside the head see only the tokens whose logits are
    wanted. `unpaged` is the reason why the paged cache can't serve the model, else None.
    """

    layers: Mapping[int, LayerAttention] = field(default_factory=dict)
    state_users: frozenset[str] = frozenset()
    keeps_all_logits: bool = False
    unpaged: str | None = None


@dataclass
class _RecordingAttention:
    """A step attention that records shapes and returns zeros."""

    layers: dict[int, LayerAttention]

    def __call__(
        self,
        layer: int,
        queries_THD: torch.Tensor,
        keys_THD: torch.Tensor,
        values_THD: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        if layer in self.layers:
            raise UnpagedAttentionError(f"layer {layer} attends twice")
        if len(keys_THD) != len(queries_THD):
            raise UnpagedAttentionError(f"layer {layer} attends to tokens other than the step's")
        _, num_kv_heads, key_dim = keys_THD.shape
        self.layers[layer] = LayerAttention(num_kv_heads, key_dim, values_THD.shape[2], options)
        return queries_THD.new_zeros(*queries_THD.shape[:2], values_THD.shape[2])


def probe(
    model: Any, context: StepContext, run: Callable[..., Any], max_model_len: int
) -> ProbedModel:
    """Run a few tokens. `run` is called as `GenericModel.run` is."""
    config = model.config.get_text_config(decoder=True)
    if any(type(module).__name__.endswith("Indexer") for module in model.modules()):
        raise UnsupportedModelError(
            f"{config.model_type} models can't be served: adapters on attention that an index "
            "makes sparse don't come out as in PEFT yet"
        )
    reason = _unpaged_config(config, max_model_len)
    if reason is not None:
        return ProbedModel(unpaged=reason)
    modules: list[str] = []
    layers: dict[int, LayerAttention] = {}
    cache = ProbeCache(model.config, modules)
    rows_seen: dict[str, int] = {}
    zeros = torch.zeros(_NUM_TOKENS, dtype=torch.long, device=model.device)
    positions = torch.arange(_NUM_TOKENS, device=model.device)
    context.set(None, _RecordingAttention(layers), None)
    context.step_cache = cache
    try:
        with torch.inference_mode(), _watching(model, modules, rows_seen):
            run(zeros, positions, positions[-1:], cache)
    except (UnpagedAttentionError, UnslicedInputError) as error:
        return ProbedModel(unpaged=str(error))
    except (TypeError, NotImplementedError, AssertionError, AttributeError, ValueError) as error:
        return ProbedModel(unpaged=f"its forward takes no ragged step: {error!r}")
    finally:
        context.clear()
    reason = _inconsistency(config, layers, cache)
    return ProbedModel(
        layers=layers,
        state_users=frozenset(cache.state_users),
        keeps_all_logits=any(count != _NUM_TOKENS for count in rows_seen.values()),
        unpaged=reason,
    )


@contextmanager
def _watching(model: nn.Module, stack: list[str], rows_seen: dict[str, int]) -> Iterator[None]:
    """Keep the names of the running modules in `stack`, and how many rows each linear saw."""
    linears = linear_modules(model)

    def enter(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, args: tuple[Any, ...]) -> None:
            stack.append(name)
            if name in linears and args and isinstance(args[0], torch.Tensor):
                rows_seen[name] = args[0].numel() // args[0].shape[-1]

        return note

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        stack.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unpaged_config(config: Any, max_model_len: int) -> str | None:
    """What a config says that no probe of a few tokens would show."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{config.model_type} is an encoder-decoder; only causal models are served"
        )
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        kind = rope.get("rope_type") or rope.get("type")
        window = getattr(config, "max_position_embeddings", max_model_len)
        original = (
            rope.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or window
        )
        if kind in _LENGTH_DEPENDENT_ROPE and max_model_len > original:
            return f"{kind} rotary embeddings change with the length of the sequence"
    return None


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rotary settings, which some architectures nest by layer type."""
    yield parameters
    for value in parameters.values():
        if isinstance(value, Mapping):
            yield value


def _inconsistency(
    config: Any, layers: Mapping[int, LayerAttention], cache: ProbeCache
) -> str | None:
    """Why what the probe saw can't be all that the layers do; None when it can."""
    if not layers:
        return "no layer uses transformers' attention interface"
    if cache.key_layers and set(layers) != cache.key_layers:
        odd = sorted(set(layers) ^ cache.key_layers)
        return f"layers {odd} attend to other keys than those that they compute"
    types = list(getattr(config, "layer_types", None) or ())
    for index, layer in layers.items():
        kind = types[index] if index < len(types) else "full_attention"
        if kind not in _PAGED_LAYERS:
            return f"layer {index} is a layer of type {kind}"
        if kind == "sliding_attention" and layer.options.sliding_window is None:
            return f"layer {index} has its window in a mask"
    others = {
        index
        for index in set(range(config.num_hidden_layers)) - set(layers)
        if index >= len(types) or types[index] not in _STATELESS_LAYERS
    }
    if others and not cache.state_users:
        return f"layers {sorted(others)} neither attend nor ask for a state"
    return None
