"""What this server takes of adapters, for those who make them."""

from dataclasses import dataclass

from adapters.compatibility import ServedBase
from adapters.serving_limits import ADAPTER_PAGES, MAX_LORA_RANK


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """`served` is what adapters must have been made for, unless `allow_mismatch` lets others in."""

    served: ServedBase
    max_lora_rank: int = MAX_LORA_RANK
    adapter_bank_pages: int = ADAPTER_PAGES
    allow_mismatch: bool = False
