"""The native way through a llama-family model: a whole step is one C++ call over packed weights."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from server.model.adapter_pages.bank import AdapterBank
from server.model.adapter_pages.page_layout import PageLayout
from server.model.forward.generic import GenericModel
from server.model.forward.native_description import FAMILIES, HeadFormat, NativeDescription
from server.model.forward.native_extras import NativeExtras
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs
from server.native.build import NativeLibrary
from server.native.llama import LlamaLayer, NativeLlama
from server.native.ops import (
    NativeBank,
    NativeOps,
    PagedBatch,
    Projection,
    Segment,
    WorkList,
)
from server.native.weights import Arithmetic, PackedWeight, embed, row_major_bf16

logger = logging.getLogger(__name__)


class NativeModel:
    """Implements `runner.StepModel` on the CPU in bfloat16. Owns the packed weights."""

    def __init__(
        self,
        library: NativeLibrary,
        model: Any,
        probed: GenericModel,
        bank: AdapterBank,
        cache: KVCache,
        *,
        max_batch_tokens: int,
        max_positions: int,
        head_format: HeadFormat = "bfloat16",
        arithmetic: Arithmetic = "bfloat16",
    ) -> None:
        """Packs `model`; `probed` is the generic way over the same model, not yet wrapped."""
        self._ops = NativeOps(library)
        description = NativeDescription(
            model,
            probed.layers,
            bank.layout,
            library,
            max_positions=max_positions,
            arithmetic=arithmetic,
        )
        layers = description.layers()
        head = description.head(head_format)
        tied = head_format == "bfloat16" and (
            model.get_input_embeddings().weight is model.get_output_embeddings().weight
        )
        embedding = head if tied else row_major_bf16(model.get_input_embeddings().weight.clone())
        shape = description.shape()
        self._extras = NativeExtras(
            self._ops,
            shape,
            embedding,
            head,
            is_scaled_inside=hasattr(model.get_input_embeddings(), "embed_scale"),
        )
        self._llama = NativeLlama(
            self._ops,
            shape,
            layers,
            embedding,
            head,
            description.final_norm(),
            *cache.stacked,
            max_tokens=max_batch_tokens,
        )
        tables = {
            probed.facts.head: embedding if probed.facts.is_tied else head,
            probed.facts.embedding: embedding,
        }
        self.weights = PackedWeights(layers, tables, bank.layout, library)
        self.facts = dataclasses.replace(probed.facts, input_scaled=self.weights.alone)
        self._bank = native_bank(bank)
        packed: list[PackedWeight] = [head] if tied else [head, embedding]
        for layer in layers:
            packed += [p.weight for p in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        self.weight_bytes = sum(weight.size_bytes for weight in packed)
        logger.info("native kernels use %d threads", self._ops.num_threads)

    def forward(self, step: StepInputs, cache: KVCache) -> torch.Tensor:
        """Logits [S, vocabulary] in float32; writes the KV of all tokens."""
        rows = None if step.extras is None else self._extras.rows_for(step, step.extras)
        logits_SV = self._llama.step(
            step.token_ids.int(),
            PagedBatch(step.query_starts, step.seq_lens, step.block_tables),
            step.sample_tokens.int(),
            self._bank,
            WorkList(step.work_offsets, step.work_pages, step.work_scales),
            rows,
        )
        if step.extras is not None and rows is not None and rows.sample_hidden is not None:
            self._extras.change_logits(logits_SV, rows.sample_hidden, step.extras)
        return logits_SV

    keeps_states = False

    def state_bytes(self) -> int:
        """0: all that sequences keep is in the paged cache."""
        return 0

    def phase_seconds(self) -> dict[str, float]:
        """Seconds in each phase of the step, since the start."""
        return self._llama.phase_seconds()


class PackedWeights:
    """`base_facts.BaseWeights` of packed projections. `alone` are the linears that are not packed
    together with others over the same inputs; `tables` are the embedding and the head by name."""

    def __init__(
        self,
        layers: Sequence[LlamaLayer],
        tables: Mapping[str, PackedWeight],
        layout: PageLayout,
        library: NativeLibrary,
    ) -> None:
        self._library = library
        self._tables = tables
        self._places: dict[str, tuple[Projection, Segment]] = {}
        names = [place.name for place in layout.places]
        alone = set()
        for layer in layers:
            for projection in (layer.qkv, layer.o, layer.gate_up, layer.down):
                for segment in projection.segments:
                    if segment.module >= 0:
                        self._places[names[segment.module]] = projection, segment
                        if len(projection.segments) == 1:
                            alone.add(names[segment.module])
        self.alone = frozenset(alone)

    def weight(self, module: str) -> torch.Tensor:
        """float32 [N, K], as the kernels use it."""
        projection, segment = self._places[module]
        rows = torch.arange(segment.column, segment.column + segment.num_columns, dtype=torch.int32)
        return embed(self._library, projection.weight, rows)

    def bias(self, module: str) -> torch.Tensor | None:
        """float32 [N], or None."""
        projection, segment = self._places[module]
        if projection.bias is None:
            return None
        return projection.bias[segment.column : segment.column + segment.num_columns]

    def rows(self, module: str, token_ids: torch.Tensor) -> torch.Tensor:
        """float32 [tokens, hidden], as the kernels use it."""
        return embed(self._library, self._tables[module], token_ids.int())


def leave_cores_to_kernels() -> None:
    """One torch thread for this process: its spinning workers would fight the kernels' own."""
    torch.set_num_threads(1)


def is_native_architecture(config: Any) -> bool:
    """Whether the native step knows this architecture, and its sizes suit the kernels."""
    activations = ("silu", "gelu_pytorch_tanh")
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    return (
        config.model_type in FAMILIES
        and activation in activations
        and config.hidden_size % 64 == 0
        and config.intermediate_size % 64 == 0
    )


def native_bank(bank: AdapterBank) -> NativeBank:
    """The bank as the kernels read it: a view, not a copy."""
    layout: PageLayout = bank.layout
    return NativeBank(
        pages_PE=bank.pages,
        a_offsets_M=torch.tensor([p.a_offset for p in layout.places], dtype=torch.int64),
        b_offsets_M=torch.tensor([p.b_offset for p in layout.places], dtype=torch.int64),
        in_features_M=torch.tensor([p.in_features for p in layout.places], dtype=torch.int32),
        out_features_M=torch.tensor([p.out_features for p in layout.places], dtype=torch.int32),
        module_scales_PM=bank.module_scales,
        vector_flags_PV=bank.vector_flags,
    )
