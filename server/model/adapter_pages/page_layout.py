"""How adapter pages are laid out: rank pages, vector pages and row pages, all of one size.

A *rank page* holds `PAGE_RANK` rank components of every adapted linear. For module m (K inputs, N
outputs) it has A as [PAGE_RANK, K] at `a_offset` and B transposed as [PAGE_RANK, N] at `b_offset`,
so that the shrink reads along K and the expand along N. A rank that isn't a multiple of PAGE_RANK
is padded with zeros, which add nothing.

A *vector page* holds float32 vectors of the same modules in the same places: output scale [N],
output bias [N], input scale [K], one after the other (docs/adr/0010). Norms with a bias have a
place there, too. What a *row page* holds is `server.model.adapter_pages.row_table`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.rank_pages import PAGE_RANK


@dataclass(frozen=True, slots=True)
class ModulePlace:
    """Where one linear lies in a rank page, in elements."""

    index: int
    name: str
    in_features: int
    out_features: int
    a_offset: int
    b_offset: int


@dataclass(frozen=True, slots=True)
class VectorPlace:
    """Where one module's vectors lie in a vector page, in the page's elements.

    `index` counts linears and norms together; a linear has the same index in both lists.
    """

    index: int
    name: str
    in_features: int
    out_features: int
    offset: int


@dataclass(frozen=True)
class PageLayout:
    """The same for every page of a bank. `places` is in module order; `vectors` is it and norms."""

    places: tuple[ModulePlace, ...]
    vectors: tuple[VectorPlace, ...]
    page_elements: int

    @staticmethod
    def for_modules(
        shapes: Mapping[str, tuple[int, int]], norms: Mapping[str, int] | None = None
    ) -> "PageLayout":
        """Lay out linears (name -> (in_features, out_features)) and norms (name -> size)."""
        places = []
        vectors = []
        offset = 0
        for index, (name, (in_features, out_features)) in enumerate(shapes.items()):
            b_offset = offset + PAGE_RANK * in_features
            places.append(ModulePlace(index, name, in_features, out_features, offset, b_offset))
            vectors.append(VectorPlace(index, name, in_features, out_features, offset))
            offset = b_offset + PAGE_RANK * out_features
        for name, size in (norms or {}).items():
            vectors.append(VectorPlace(len(vectors), name, 0, size, offset))
            offset += 4 * size  # scale and bias, a float32 being at most two elements
        return PageLayout(tuple(places), tuple(vectors), offset)

    @property
    def by_name(self) -> dict[str, ModulePlace]:
        return {place.name: place for place in self.places}

    @property
    def vectors_by_name(self) -> dict[str, VectorPlace]:
        return {place.name: place for place in self.vectors}
