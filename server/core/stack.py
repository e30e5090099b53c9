"""What serves a request: an ordered list of (adapter version, scale)."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from adapters.rank_pages import pages_for_rank


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One published adapter version, resolved from the store.

    `digest` identifies its bytes (weights and config): two names with the same digest are the same
    adapter to the engine. `rank` is the largest rank of any of its modules. `path` is its folder.
    `chat_template` is one of its own that the operator allowed, empty for the base's, None when
    nobody recorded one; `template_note` says so where it was trained with another than it gets.
    """

    name: str
    version: int
    digest: str
    rank: int
    path: Path
    size_bytes: int = 0
    chat_template: str | None = None
    template_note: str | None = None

    @property
    def label(self) -> str:
        """`name@version`, as answers and metrics print it."""
        return f"{self.name}@{self.version}"

    @property
    def num_pages(self) -> int:
        """Bank pages that it needs."""
        return pages_for_rank(self.rank)


@dataclass(frozen=True, slots=True)
class StackMember:
    """One adapter of a stack and the factor its delta is multiplied by (any finite number)."""

    adapter: AdapterVersion
    scale: float = 1.0

    def __post_init__(self) -> None:
        assert math.isfinite(self.scale), self.scale


@dataclass(frozen=True, slots=True)
class AdapterStack:
    """The exact weighted sum of the deltas of `members`; empty means the base model alone."""

    members: tuple[StackMember, ...] = ()

    @property
    def expression(self) -> str:
        """`sql@3:0.7+polite@1:0.3`; a scale of 1 is left out; the empty string for the base."""
        return "+".join(
            m.adapter.label if m.scale == 1.0 else f"{m.adapter.label}:{m.scale:g}"
            for m in self.members
        )

    @property
    def digest(self) -> str:
        """Content hash of the ordered (adapter digest, scale) pairs; empty string for the base.

        A stack of one adapter at scale 1 has that adapter's own digest.
        """
        if not self.members:
            return ""
        if len(self.members) == 1 and self.members[0].scale == 1.0:
            return self.members[0].adapter.digest
        text = "|".join(f"{m.adapter.digest}*{m.scale!r}" for m in self.members)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """Bounded label for metrics: the sorted names, or `base`."""
        if not self.members:
            return "base"
        return "+".join(sorted(m.adapter.name for m in self.members))


BASE_STACK = AdapterStack()
