"""What a fold is asked to do: a dense adapter as the LoRA of a rank that comes near enough.

Knows PEFT's methods by name and no torch.
"""

import math
from dataclasses import dataclass
from typing import Any

from adapters.base.quantization import NF4, QuantizationSpec
from adapters.errors import FoldError
from adapters.format.lora_config import MAX_RANK
from adapters.names import check_name
from adapters.serving_limits import MAX_LORA_RANK

AIM = 0.01
"""The relative error at which a fold looks for no larger rank."""

MAX_ERROR = 0.05
"""The relative error above which a fold is refused."""


@dataclass(frozen=True, slots=True)
class FoldSpec:
    """Fold an adapter over `base` into the next version of `name`.

    Without `rank` it is the smallest at which every module's error is at most `AIM`, or else the
    largest that a server takes by default. Errors are relative, of a module's change in the
    Frobenius norm. Raises `FoldError` or `InvalidNameError`.
    """

    name: str
    base: str
    quantization: QuantizationSpec = NF4
    rank: int | None = None
    max_error: float = MAX_ERROR

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            raise FoldError(f"rank is {self.rank}; a rank is a whole number from 1 to {MAX_RANK}")
        if not (math.isfinite(self.max_error) and 0 < self.max_error < 1):
            raise FoldError(
                f"max_error is {self.max_error}; it is a share of the change, above 0 and below 1"
            )

    @property
    def largest_rank(self) -> int:
        return self.rank or MAX_LORA_RANK

    def choose_rank(self, errors: list[list[float]]) -> int:
        """The rank, given each module's error at every rank from 1 on.

        A module's list ends where its change is exact.
        """
        if self.rank is not None:
            return self.rank
        aim = min(AIM, self.max_error)

        def needed(module: list[float]) -> int:
            return next((rank for rank, error in enumerate(module, 1) if error <= aim), len(module))

        return min(max(map(needed, errors)), self.largest_rank)

    def as_data(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return {"rank": self.rank, "max_error": self.max_error}
