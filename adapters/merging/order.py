"""What a merge is asked to do; knows PEFT's methods by name and no torch."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

from adapters.errors import MergeError
from adapters.names import check_name
from adapters.stack import StackTerm, check_stack, format_stack

EXACT_METHOD = "cat"
SVD_METHODS = frozenset(
    {"svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd"}
)
PRUNING_METHODS = frozenset({
    "ties", "dare_linear", "dare_ties", "magnitude_prune", "ties_svd", "dare_linear_svd",
    "dare_ties_svd", "magnitude_prune_svd",
})  # fmt: skip
METHODS = (EXACT_METHOD, "linear", *sorted(SVD_METHODS | PRUNING_METHODS))
DEFAULT_DENSITY = 0.5


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """Merge `terms` (reference, weight) into the next version of `name`.

    `rank` is of the SVD methods (None: the largest of the parents), `density` the share of values
    that the pruning methods keep. Raises `MergeError`, `InvalidNameError` or `InvalidStackError`.
    """

    name: str
    terms: tuple[StackTerm, ...]
    method: str = EXACT_METHOD
    rank: int | None = None
    density: float | None = None
    seed: int = 0
    now_unix_seconds: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        check_name(self.name)
        check_stack(self.terms)
        if self.method not in METHODS:
            raise MergeError(f"unknown method {self.method!r}; there is {', '.join(METHODS)}")
        if len(self.terms) < 2:
            raise MergeError(f"{format_stack(self.terms) or 'nothing'}: a merge takes two or more")
        if any(term.scale == 0.0 for term in self.terms):
            raise MergeError("a weight is 0: leave that adapter out")
        if self.rank is not None and (self.method not in SVD_METHODS or self.rank < 1):
            raise MergeError(
                f"rank is {self.rank} with method {self.method}: a rank of 1 or more goes with "
                f"{', '.join(sorted(SVD_METHODS))}"
            )
        if self.density is None and self.method in PRUNING_METHODS:
            object.__setattr__(self, "density", DEFAULT_DENSITY)
        density = self.density
        if density is None:
            return
        is_share = math.isfinite(density) and 0 < density <= 1
        if self.method not in PRUNING_METHODS or not is_share:
            raise MergeError(
                f"density is {density} with method {self.method}: a share above 0 and up to 1 goes "
                f"with {', '.join(sorted(PRUNING_METHODS))}"
            )

    def as_data(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return {
            "adapters": format_stack(self.terms),
            "method": self.method,
            "rank": self.rank,
            "density": self.density,
            "seed": self.seed,
        }
