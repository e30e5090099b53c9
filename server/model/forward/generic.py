"""The generic way through a model: transformers' own modules, with our linears and attention.

Right for every architecture, and the oracle of the native way. All rows of a step run together
where the layers allow it: those that keep a state run row by row within it, and a model whose
attention the paged cache doesn't serve runs sequence by sequence. Which it is, a probe learns.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from adapters.base.modules import adaptable_modules, linear_modules
from server.model.adapter_pages.bank import AdapterBank
from server.model.adapter_pages.base_facts import ModuleWeights, base_facts
from server.model.forward.adapter_linear import AdapterLinear
from server.model.forward.adapter_modules import AdapterEmbedding, AdapterHead, AdapterNorm
from server.model.forward.attention_interface import (
    ATTENTION_NAME,
    StepAttention,
    register_attention,
    share_context,
)
from server.model.forward.bloom import adopt_bloom
from server.model.forward.experts import AdaptedExperts
from server.model.forward.probe import ProbedModel, probe
from server.model.forward.row_by_row import RowByRow, RowScope
from server.model.forward.row_states import RowStates
from server.model.forward.self_check import differing_step
from server.model.forward.sequence_forward import ForwardArguments, SequenceForward
from server.model.forward.step_cache import StepCache
from server.model.forward.step_context import StepContext
from server.model.geometry import AttentionGeometry, AttentionOptions, KeyValueShape, LayerAttention
from server.model.kernels.backends import Attend, KernelBackend, StepWork, reference_backend
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs

logger = logging.getLogger(__name__)


@dataclass
class _PagedAttention:
    """The step attention of a kernel backend. `places` are the layers' places in the cache."""

    attend: Attend
    cache: KVCache
    step: StepInputs
    places: dict[int, int]

    def __call__(
        self,
        layer: int,
        queries_THD: torch.Tensor,
        keys_THD: torch.Tensor,
        values_THD: torch.Tensor,
        options: AttentionOptions,
    ) -> torch.Tensor:
        place = self.places[layer]
        self.cache.write(place, self.step.slot_mapping, keys_THD, values_THD)
        return self.attend(queries_THD, self.cache, place, self.step, options)


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
        self._arguments = ForwardArguments(model)
        register_attention()
        adopt_bloom(model, self._context)
        share_context(model, self._context)
        model.set_attn_implementation(ATTENTION_NAME)
        self._probed = ProbedModel()  # What `run` assumes while the probe calls it.
        self._probed = probe(model, self._context, self.run, max_model_len)
        self._sequences: SequenceForward | None = None
        self._states: RowStates | None = None
        if self._probed.unpaged is not None:
            self._run_alone(SequenceForward(model, self._arguments))
        elif self._probed.state_users:
            self._keep_states(SequenceForward(model, self._arguments))
        self._place_layers()
        self.module_shapes = linear_modules(model)
        self.adaptable_shapes = adaptable_modules(model)
        self.facts = base_facts(model, self.geometry, takes_prefix=self._states is None)
        modules = dict(model.named_modules())
        norms = [n for n in self.adaptable_shapes if isinstance(modules.get(n), nn.LayerNorm)]
        self.norm_sizes = {name: self.adaptable_shapes[name][0] for name in norms}
        self.weights = ModuleWeights(model)

    def _place_layers(self) -> None:
        """Give the layers that use the paged cache their places in it."""
        attending = sorted(self._probed.layers) if self._sequences is None else []
        self._places = {layer: place for place, layer in enumerate(attending)}
        self.layers: tuple[LayerAttention, ...] = tuple(self._probed.layers[i] for i in attending)
        self.geometry = AttentionGeometry(
            tuple(KeyValueShape(a.num_kv_heads, a.key_dim, a.value_dim) for a in self.layers)
        )

    @property
    def keeps_states(self) -> bool:
        """Whether sequences carry more from step to step than the blocks of the paged cache: then
        a step needs `StepInputs.rows`, and a prefix found in the cache is no place to start."""
        return self._states is not None

    @property
    def is_capturable(self) -> bool:
        """Whether a step is the same work on the device each time: no states, and no attention
        that a backend leaves to plain torch."""
        return self._states is None and all(a.options.sinks_H is None for a in self.layers)

    @property
    def way(self) -> str:
        """How rows run, for the log: together, row by row where a state is kept, or alone."""
        if self._sequences is not None:
            return f"one sequence at a time ({self._probed.unpaged})"
        return "rows together" if self._states is None else "rows together but for stateful layers"

    def kv_bytes_per_token(self, element_size: int) -> int:
        """Bytes that a sequence's keys and values take for each of its tokens."""
        if self._sequences is not None:
            return self._sequences.bytes_per_token
        return max(1, self.geometry.bytes_per_token(element_size))

    def state_bytes(self) -> int:
        """Bytes that sequences hold now beside the paged cache."""
        return 0 if self._states is None else self._states.size_bytes

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
            elif name in self.facts.experts:
                AdaptedExperts(name, module, self._context).install()
            if wrapped is not None:
                self._model.set_submodule(name, wrapped)

    def forward(
        self, step: StepInputs, cache: KVCache, work: StepWork | None = None
    ) -> torch.Tensor:
        """One step over ragged tokens; returns logits [S, vocabulary] of the rows that sample.

        `work` is given by who keeps the step's adapter work in memory of its own.
        """
        try:
            if self._sequences is not None:
                return self._forward_alone(step, self._sequences)
            attention = self._paged(step, cache)
            if self._states is not None:
                self._context.scopes = self._scopes(step, cache, self._states)
            self._context.set(self._work(step, work), attention, step.extras)
            logits = self.run(
                step.token_ids, step.positions, step.sample_tokens, self._context.step_cache
            )
            if self._states is not None:
                self._states.close(step)
            return logits
        finally:
            self._context.clear()

    def run(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        sample_tokens: torch.Tensor,
        cache: Any,
    ) -> torch.Tensor:
        """Logits of `sample_tokens`, with what the context says of the step."""
        keep = {} if self._probed.keeps_all_logits else {"logits_to_keep": sample_tokens}
        output = self._model(
            **self._arguments.of(
                cache, input_ids=token_ids[None], position_ids=positions[None], use_cache=False,
                **keep,
            )
        )  # fmt: skip
        logits: torch.Tensor = output.logits[0]
        return logits[sample_tokens] if len(logits) != len(sample_tokens) else logits

    def _forward_alone(self, step: StepInputs, sequences: SequenceForward) -> torch.Tensor:
        """Row after row through transformers' own attention, each with its own cache."""
        assert self._states is not None
        logits = []
        for row, cache in zip(step.rows, self._states.open(step), strict=True):
            self._context.set(self._work(row, None), None, row.extras)
            logits.append(sequences.run(row.token_ids, row.positions, cache, row.sample_tokens))
        self._states.close(step)
        return torch.cat(logits)

    def _scopes(self, step: StepInputs, cache: KVCache, states: RowStates) -> list[RowScope]:
        """What stateful layers see of each row. Sets the object that stands for their caches."""
        self._context.step_cache = StepCache()
        scopes, first = [], 0
        for row, row_cache in zip(step.rows, states.open(step), strict=True):
            work, attention = self._work(row, None), self._paged(row, cache)

            def enter(
                work: StepWork | None = work,
                attention: StepAttention = attention,
                row: StepInputs = row,
            ) -> None:
                self._context.enter_row(work, attention, row.extras)

            tokens = slice(first, first + row.row_lengths[0])
            scopes.append(RowScope(tokens, row_cache, enter))
            first = tokens.stop
        return scopes

    def _paged(self, step: StepInputs, cache: KVCache) -> _PagedAttention:
        return _PagedAttention(self._backend.attend, cache, step, self._places)

    def _work(self, step: StepInputs, work: StepWork | None) -> StepWork | None:
        work = self._backend.make_work(step) if work is None else work
        return None if work.is_empty else work

    def _run_alone(self, sequences: SequenceForward) -> None:
        logger.info(
            "%s runs one sequence at a time: %s",
            self._model.config.model_type,
            self._probed.unpaged,
        )
        self._sequences = sequences
        self._states = RowStates(self._model.config)

    def _keep_states(self, sequences: SequenceForward) -> None:
        """Run stateful layers row by row, if that gives what transformers gives."""
        self._model.set_attn_implementation(ATTENTION_NAME)
        self._states = RowStates(self._model.config)
        users = [self._model.get_submodule(name) for name in self._probed.state_users]
        stateful = [RowByRow(module, self._context) for module in users]
        for layer in stateful:
            layer.install()
        self._place_layers()
        problem = None if sequences.takes_pieces else "it goes on one token at a time"
        problem = problem or differing_step(self, sequences)
        if problem is not None:
            for layer in stateful:
                layer.remove()
            self._probed = replace(self._probed, unpaged=problem)
            sequences.use_own_attention()
            self._run_alone(sequences)


def freeze(model: nn.Module) -> None:
    """No parameter of a served base needs a gradient."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
