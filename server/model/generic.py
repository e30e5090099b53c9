"""The generic way through a model: transformers' own modules, with our linears and attention.

Right for every architecture that goes through transformers' attention interface, and the oracle of
the native way. What the model needs of the KV cache is learned by running one token through it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapters.base.modules import adaptable_modules, linear_modules
from server.core.errors import UnsupportedModelError
from server.model.adapter_linear import AdapterLinear
from server.model.adapter_modules import AdapterEmbedding, AdapterHead, AdapterNorm
from server.model.attention_interface import ATTENTION_NAME, StepAttention, register_attention
from server.model.bank import AdapterBank
from server.model.base_facts import ModuleWeights, base_facts
from server.model.bloom import adopt_bloom
from server.model.geometry import AttentionGeometry, AttentionOptions, LayerAttention
from server.model.kernels.backends import Attend, KernelBackend, StepWork, reference_backend
from server.model.kv_cache import KVCache
from server.model.step_context import StepContext
from server.model.step_inputs import StepInputs

_SERVED_LAYERS = {"full_attention", "sliding_attention"}
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass
class _Probe:
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
        _, num_kv_heads, key_dim = keys_THD.shape
        self.layers[layer] = LayerAttention(num_kv_heads, key_dim, values_THD.shape[2], options)
        return queries_THD.new_zeros(*queries_THD.shape[:2], values_THD.shape[2])


@dataclass
class _PagedAttention:
    """The step attention of a kernel backend."""

    attend: Attend
    cache: KVCache
    step: StepInputs

    def __call__(
        self,
        layer: int,
        queries_THD: torch.Tensor,
        keys_THD: torch.Tensor,
        values_THD: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        self.cache.write(layer, self.step.slot_mapping, keys_THD, values_THD)
        return self.attend(queries_THD, self.cache, layer, self.step, options)


class GenericModel:
    """A transformers causal LM that computes ragged steps over a paged cache.

    Takes over `model` (its linears are wrapped in place). Raises `UnsupportedModelError` with the
    reason when the architecture can't be served.
    """

    def __init__(
        self, model: Any, *, max_model_len: int, backend: KernelBackend | None = None
    ) -> None:
        self._model = model
        self._backend = backend or reference_backend()
        self._context = StepContext()
        _check_config(model.config, max_model_len)
        register_attention()
        adopt_bloom(model, self._context)
        model.set_attn_implementation(ATTENTION_NAME)
        self.layers = self._probe()
        first = self.layers[0]
        self.geometry = AttentionGeometry(
            len(self.layers), first.num_kv_heads, first.key_dim, first.value_dim
        )
        self.module_shapes = linear_modules(model)
        self.adaptable_shapes = adaptable_modules(model)
        self.facts = base_facts(model, self.geometry)
        modules = dict(model.named_modules())
        norms = [n for n in self.adaptable_shapes if isinstance(modules[n], nn.LayerNorm)]
        self.norm_sizes = {name: self.adaptable_shapes[name][0] for name in norms}
        self.weights = ModuleWeights(model)

    def install_adapters(self, bank: AdapterBank, backend: KernelBackend | None = None) -> None:
        """Wrap every adaptable linear, so that the bank's pages can be added to it.

        `backend`, when given, computes from here on, with its own linears.
        """
        self._backend = backend or self._backend
        make_linear = self._backend.make_linear or (lambda module: module)
        places, vectors = bank.layout.by_name, bank.layout.vectors_by_name
        for name, module in list(self._model.named_modules()):
            wrapped: nn.Module | None = None
            if name in places:
                base = make_linear(module)
                wrapped = AdapterLinear(base, places[name], vectors[name], bank, self._context)
            elif name in vectors:
                wrapped = AdapterNorm(module, vectors[name], self._context)
            elif name == self.facts.embedding:
                wrapped = AdapterEmbedding(module, self._context)
            elif name == self.facts.head:
                wrapped = AdapterHead(module, self._context)
            if wrapped is not None:
                self._model.set_submodule(name, wrapped)

    def forward(
        self, step: StepInputs, cache: KVCache, work: StepWork | None = None
    ) -> torch.Tensor:
        """One step over ragged tokens; returns logits [S, vocabulary] of the rows that sample.

        `work` is given by who keeps the step's adapter work in memory of its own.
        """
        if work is None:
            work = self._backend.make_work(step)
        self._context.work = None if work.is_empty else work
        self._context.extras = step.extras
        try:
            return self._run(
                step.token_ids,
                step.positions,
                step.sample_tokens,
                _PagedAttention(self._backend.attend, cache, step),
            )
        finally:
            self._context.work = self._context.attention = self._context.extras = None

    def _run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        sample_tokens: torch.Tensor,
        attention: StepAttention,
    ) -> torch.Tensor:
        self._context.attention = attention
        output = self._model(
            input_ids=token_ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=sample_tokens,
            step_attention=attention,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _probe(self) -> tuple[LayerAttention, ...]:
        device = self._model.device
        probe = _Probe({})
        zero = torch.zeros(1, dtype=torch.long, device=device)
        name = self._model.config.model_type
        try:
            with torch.inference_mode():
                self._run(zero, zero, zero, probe)
        except (TypeError, NotImplementedError, AssertionError, AttributeError) as error:
            raise UnsupportedModelError(
                f"{name} models can't be served: a forward over one token failed with {error!r}"
            ) from error
        num_layers = self._model.config.num_hidden_layers
        if sorted(probe.layers) != list(range(num_layers)):
            raise UnsupportedModelError(
                f"{name} models can't be served: {len(probe.layers)} of {num_layers} layers use "
                "transformers' attention interface, and the cache must see them all"
            )
        layers = tuple(probe.layers[index] for index in range(num_layers))
        if len({(a.num_kv_heads, a.key_dim, a.value_dim) for a in layers}) != 1:
            raise UnsupportedModelError(
                f"{name} models can't be served: their layers differ in heads or head size"
            )
        return layers


def _check_config(config: Any, max_model_len: int) -> None:
    name = config.model_type
    layers = set(getattr(config, "layer_types", None) or ()) - _SERVED_LAYERS
    if layers:
        raise UnsupportedModelError(
            f"{name} models can't be served: layers of type {', '.join(sorted(layers))} keep a "
            "state that the paged cache doesn't hold"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is an encoder-decoder; only causal models are served")
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type") or rope.get("type")
    window = getattr(config, "max_position_embeddings", max_model_len)
    original = rope.get("original_max_position_embeddings") or window
    if kind in _LENGTH_DEPENDENT_ROPE and max_model_len > original:
        raise UnsupportedModelError(
            f"{kind} rotary embeddings change with the longest sequence of a batch, so one request "
            f"would change another; serve this model with max_model_len {original} or less"
        )


def freeze(model: nn.Module) -> None:
    """No parameter of a served base needs a gradient."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
