"""Slots of the adapter bank: which adapters are on the device, and who needs them to stay.

The bank is cut into pages of `PAGE_RANK` rank components; a slot is the list of pages that one
adapter occupies, so a rank-8 adapter takes one page and a rank-64 adapter eight, with no
fragmentation between ranks. No tensors here: the runner owns the bytes behind the page ids.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(slots=True)
class Slot:
    """The place of one adapter; `pins` counts the sequences that need it."""

    pages: tuple[int, ...]
    pins: int = 0


_KEPT_SHARE = 0.75
"""Of the bank's pages: what is kept on request may take so much, the rest is for everybody."""


class AdapterSlots:
    """Grants, pins and evicts slots, by adapter digest. Unpinned slots are evicted LRU first.

    Kept slots stay without a pin. They give way only to a sequence that would never run otherwise,
    when nothing else runs; they come back when they are next used.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.max_kept_pages = int(num_pages * _KEPT_SHARE)
        self._kept: dict[str, int] = {}  # digest -> pages, on the device or not
        self._free_pages = list(range(num_pages - 1, -1, -1))
        self._slots: OrderedDict[str, Slot] = OrderedDict()  # least recently used first
        self._retired: set[str] = set()
        self.num_evictions = 0

    @property
    def num_used_pages(self) -> int:
        return self.num_pages - len(self._free_pages)

    @property
    def num_pinned(self) -> int:
        """Distinct adapters that some sequence pins."""
        return sum(1 for slot in self._slots.values() if slot.pins)

    def resident(self) -> tuple[str, ...]:
        """Digests on the device."""
        return tuple(self._slots)

    def pages_of(self, digest: str) -> tuple[int, ...] | None:
        """The pages of a resident adapter."""
        slot = self._slots.get(digest)
        return slot.pages if slot else None

    def held_pages(self, digests: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """The pages of adapters that are all resident, since somebody pins them."""
        return {digest: self._slots[digest].pages for digest in digests}

    def can_pin(
        self, wanted: dict[str, int], unpinned: Mapping[str, int] = MappingProxyType({})
    ) -> bool:
        """Whether all adapters of `wanted` (digest -> pages) can be on the device together.

        `unpinned` counts pins, by digest, that would be given back before.
        """
        missing = sum(pages for digest, pages in wanted.items() if digest not in self._slots)
        if missing <= len(self._free_pages):
            return True
        idle = [d for d, slot in self._slots.items() if slot.pins == unpinned.get(d, 0)]
        # When nobody runs, nobody will give pages back.
        gives_way = len(idle) == len(self._slots)
        evictable = sum(
            len(self._slots[digest].pages)
            for digest in idle
            if digest not in wanted and (gives_way or digest not in self._kept)
        )
        return missing <= len(self._free_pages) + evictable

    def pin(self, wanted: dict[str, int]) -> dict[str, tuple[int, ...]]:
        """Pin every adapter of `wanted`; returns the pages of those that must be filled first.

        Raises `AssertionError` unless `can_pin(wanted)`.
        """
        assert self.can_pin(wanted), "pin() without a check of can_pin()"
        for digest in wanted:
            if digest in self._slots:
                self._slots[digest].pins += 1
                self._retired.discard(digest)
                self._slots.move_to_end(digest)
        placed: dict[str, tuple[int, ...]] = {}
        for digest, num_pages in wanted.items():
            if digest in self._slots:
                continue
            self._evict_until(num_pages)
            pages = tuple(self._free_pages.pop() for _ in range(num_pages))
            self._slots[digest] = Slot(pages, pins=1)
            placed[digest] = pages
        return placed

    def unpin(self, wanted: dict[str, int]) -> None:
        """Give back one pin of every adapter of `wanted`; they stay until room is needed."""
        for digest in wanted:
            slot = self._slots[digest]
            assert slot.pins > 0, f"{digest} unpinned twice"
            slot.pins -= 1
            if slot.pins == 0 and digest in self._retired:
                self.discard(digest)

    @property
    def kept(self) -> tuple[str, ...]:
        """Digests that are kept, on the device or not."""
        return tuple(self._kept)

    @property
    def num_kept_pages(self) -> int:
        return sum(self._kept.values())

    def can_keep(self, digest: str, num_pages: int) -> bool:
        """Whether what is kept would still leave the others their share."""
        others = self.num_kept_pages - self._kept.get(digest, 0)
        return others + num_pages <= self.max_kept_pages

    def keep(self, digest: str, num_pages: int) -> tuple[int, ...] | None:
        """Keep an adapter on the device from now on; returns pages that must be filled first.

        None where there are none to fill: it is there already, or running sequences need all pages
        and it comes when it is next used. Raises `AssertionError` unless `can_keep`.
        """
        assert self.can_keep(digest, num_pages), "keep() without a check of can_keep()"
        self._kept[digest] = num_pages
        self._retired.discard(digest)
        if digest in self._slots:
            return None
        evictable = sum(
            len(slot.pages)
            for other, slot in self._slots.items()
            if slot.pins == 0 and other not in self._kept
        )
        if num_pages > len(self._free_pages) + evictable:
            return None
        self._evict_until(num_pages)
        pages = tuple(self._free_pages.pop() for _ in range(num_pages))
        self._slots[digest] = Slot(pages)
        return pages

    def let_go(self, digest: str) -> None:
        """Let a kept adapter be evicted like the others."""
        self._kept.pop(digest, None)

    def retire(self, digest: str) -> None:
        """Free an adapter that no name means any more: now, or when its last pin is given back.

        Whoever asks for it by its version in between makes it an adapter like the others again, and
        one that is kept stays.
        """
        slot = self._slots.get(digest)
        if slot is None or digest in self._kept:
            return
        if slot.pins == 0:
            self.discard(digest)
        else:
            self._retired.add(digest)

    def discard(self, digest: str) -> None:
        """Forget a resident adapter that nobody pins (its pages could not be filled)."""
        slot = self._slots[digest]
        assert slot.pins == 0, f"{digest} is pinned"
        del self._slots[digest]
        self._retired.discard(digest)
        self._free_pages.extend(slot.pages)

    def _evict_until(self, num_pages: int) -> None:
        for digest in sorted(self._slots, key=lambda digest: digest in self._kept):
            if len(self._free_pages) >= num_pages:
                return
            if self._slots[digest].pins == 0:
                self.discard(digest)
                self.num_evictions += 1

    def check_integrity(self, pins: dict[str, int]) -> None:
        """Assert that pages are neither lost nor shared and that pins are exactly `pins`."""
        pages = [*self._free_pages, *(p for slot in self._slots.values() for p in slot.pages)]
        assert sorted(pages) == list(range(self.num_pages)), "pages lost or given twice"
        assert {d: s.pins for d, s in self._slots.items() if s.pins} == pins
        assert self.num_kept_pages <= self.max_kept_pages
