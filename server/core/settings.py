"""Frozen settings of the serving side, each part on its own. All problems are told together."""

from dataclasses import dataclass

from adapters.rank_pages import PAGE_RANK
from adapters.serving_limits import ADAPTER_PAGES, MAX_LORA_RANK
from server.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Limits that admission and each step obey.

    `max_batch_tokens` is the token budget of a step: decodes come first, prefill chunks fill the
    rest. `max_prefill_beside_decodes` bounds those chunks while anything decodes, so that a running
    stream never waits long for somebody's prompt; None leaves them the whole budget. A prompt token
    in a shared step takes 1 + context / `prefill_context_cost` of the budget, since it attends to
    all before it; None: 1. `crowding`
    bounds what flows over their share get of a step while others run: tokens for each running
    sequence of those others; None for no bound.
    """

    max_num_sequences: int = 64
    max_batch_tokens: int = 256
    max_prefill_beside_decodes: int | None = None
    prefill_context_cost: int | None = None
    crowding: float | None = None
    max_waiting: int = 1024
    max_model_len: int = 2048
    max_adapters_per_step: int = 64
    block_size: int = 16
    num_blocks: int = 2048
    num_adapter_pages: int = ADAPTER_PAGES
    max_lora_rank: int = MAX_LORA_RANK
    enable_prefix_cache: bool = True

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; it must be at least 1"
            for name in (
                "max_num_sequences", "max_batch_tokens", "max_waiting", "max_model_len",
                "max_adapters_per_step", "block_size", "num_blocks", "num_adapter_pages",
                "max_lora_rank",
            )
            if getattr(self, name) < 1
        ]  # fmt: skip
        beside = self.max_prefill_beside_decodes
        if beside is not None and beside < 1:
            problems.append(f"max_prefill_beside_decodes is {beside}; it must be at least 1")
        if self.crowding is not None and self.crowding < 0:
            problems.append(f"crowding is {self.crowding}; it must not be negative")
        if self.max_batch_tokens < self.max_num_sequences:
            problems.append(
                f"max_batch_tokens is {self.max_batch_tokens}, less than max_num_sequences "
                f"({self.max_num_sequences}): every running sequence needs one token a step"
            )
        if self.num_blocks * self.block_size < self.max_model_len:
            problems.append(
                f"the KV cache holds {self.num_blocks * self.block_size} tokens, less than "
                f"max_model_len ({self.max_model_len}): raise kv_cache_gib or lower max_model_len"
            )
        if self.num_adapter_pages * PAGE_RANK < self.max_lora_rank:
            problems.append(
                f"the adapter bank holds rank {self.num_adapter_pages * PAGE_RANK} in all, less "
                f"than max_lora_rank ({self.max_lora_rank}): raise adapter_bank_pages"
            )
        if problems:
            raise ConfigurationError(problems)
