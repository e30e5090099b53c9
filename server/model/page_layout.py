"""How one adapter page is laid out: `PAGE_RANK` rank components of every adapted module, in a row.

A page is one flat run of elements. For module m (K inputs, N outputs) it holds A as
[PAGE_RANK, K] at `a_offset` and B transposed as [PAGE_RANK, N] at `b_offset`, so that the shrink
reads along K and the expand along N. Loading an adapter is one copy per page; an adapter whose rank
isn't a multiple of PAGE_RANK is padded with zeros, which add nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.rank_pages import PAGE_RANK


@dataclass(frozen=True, slots=True)
class ModulePlace:
    """Where one module lies in a page, in elements."""

    index: int
    name: str
    in_features: int
    out_features: int
    a_offset: int
    b_offset: int


@dataclass(frozen=True)
class PageLayout:
    """The same for every page of a bank. `places` is in module order."""

    places: tuple[ModulePlace, ...]
    page_elements: int

    @staticmethod
    def for_modules(shapes: Mapping[str, tuple[int, int]]) -> "PageLayout":
        """Lay out modules (name -> (in_features, out_features)) in the order given."""
        places = []
        offset = 0
        for index, (name, (in_features, out_features)) in enumerate(shapes.items()):
            b_offset = offset + PAGE_RANK * in_features
            places.append(ModulePlace(index, name, in_features, out_features, offset, b_offset))
            offset = b_offset + PAGE_RANK * out_features
        return PageLayout(tuple(places), offset)

    @property
    def by_name(self) -> dict[str, ModulePlace]:
        return {place.name: place for place in self.places}
