"""Executes scheduled steps: the one owner of base weights, KV cache and adapter bank."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from server.core.batch import ScheduledBatch, StepOutput
from server.core.logprobs import step_scores
from server.core.ports import HostAdapter
from server.model.adapter_pages.bank import AdapterBank
from server.model.adapter_pages.host_adapter import PagedAdapter
from server.model.device_memory import device_memory_bytes
from server.model.kv_cache import KVCache
from server.model.sampling.prompt_scores import split_scores
from server.model.sampling.sampler import sample
from server.model.sampling.token_masks import MaskWorker
from server.model.step.decode_inputs import DecodeInputs, only_decodes
from server.model.step.prefix_writer import write_prefixes
from server.model.step.step_extras import StepExtras
from server.model.step.step_inputs import StepInputs


class StepModel(Protocol):
    """A way through the model: ragged tokens in, logits of the sampling rows out."""

    def forward(self, step: StepInputs, cache: KVCache) -> torch.Tensor:
        """[S, vocabulary] logits; writes the step's keys and values into `cache`."""
        ...

    @property
    def keeps_states(self) -> bool:
        """Whether the step must hold each of its rows as a step of its own too."""
        ...

    def state_bytes(self) -> int:
        """Bytes that sequences hold now beside the paged cache."""
        ...


class TorchRunner:
    """Implements `core.ports.ModelRunner` over torch tensors. Used by the step thread only."""

    def __init__(
        self,
        model: StepModel,
        cache: KVCache,
        bank: AdapterBank,
        *,
        weight_bytes: int,
        device: str,
        num_drawable: int | None = None,
    ) -> None:
        """Token ids from `num_drawable` on are never drawn; None for a head without such."""
        self._num_drawable = num_drawable
        self._model = model
        self._cache = cache
        self._bank = bank
        self._weight_bytes = weight_bytes
        self._device = device
        self._masks = MaskWorker()
        self._decodes = DecodeInputs(cache.block_size, device)
        self._peak_logits_bytes = 0

    def logits(self, batch: ScheduledBatch) -> torch.Tensor:
        """Run the batch and return the logits [S, vocabulary] of the rows that sample."""
        with torch.inference_mode():
            return self._model.forward(self._inputs(batch), self._cache)

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """One forward over the batch, and a drawn token for each row that samples."""
        with torch.inference_mode():
            step = self._inputs(batch)
            masks = self._masks.start(batch.rows)
            start = time.perf_counter()
            try:
                logits_SV = self._model.forward(step, self._cache)
            except BaseException:
                self._masks.settle(masks)  # the rows may run again, with the same matchers
                raise
            seconds = time.perf_counter() - start
            self._peak_logits_bytes = max(self._peak_logits_bytes, logits_SV.nbytes)
            sampled_SV, prompt_scores = split_scores(logits_SV, batch.rows)
            rows = [row for row in batch.rows if row.samples]
            draws = sample(sampled_SV, rows, self._masks.collect(masks), self._num_drawable)
        return StepOutput(
            draws.token_ids,
            draws.failed,
            seconds,
            refused=draws.refused,
            exhausted=frozenset(draws.exhausted),
            completed=frozenset(draws.completed),
            scores=step_scores(draws.logprobs, prompt_scores),
        )

    def _inputs(self, batch: ScheduledBatch) -> StepInputs:
        write_prefixes(batch, self._bank, self._cache)
        step = self._laid_out(batch)
        if not self._model.keeps_states:
            return step
        rows = [self._laid_out(ScheduledBatch((row,))) for row in batch.rows]
        return replace(step, rows=tuple(rows))

    def _laid_out(self, batch: ScheduledBatch) -> StepInputs:
        extras = StepExtras.from_batch(batch, self._bank)
        if only_decodes(batch):
            return self._decodes.inputs(batch.rows, extras)
        return StepInputs.from_batch(
            batch, block_size=self._cache.block_size, device=self._device, extras=extras
        )

    def place_adapter(self, pages: Sequence[int], adapter: HostAdapter) -> None:
        """Copy an adapter that this runner's own loader read into bank pages."""
        assert isinstance(adapter, PagedAdapter)
        self._bank.place(pages, adapter)

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes by component, as tensors hold them; activations are the largest logits so far."""
        return {
            "weights": self._weight_bytes,
            "kv_cache": self._cache.size_bytes,
            "adapter_bank": self._bank.size_bytes,
            "sequence_states": self._model.state_bytes(),
            "activations": self._peak_logits_bytes,
        }

    def device_memory_bytes(self) -> Mapping[str, int]:
        """`used`, `free`, `total` of the device in bytes."""
        return device_memory_bytes(self._device)
