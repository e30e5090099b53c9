"""The adapter bank: pages of adapters on the device, preallocated."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adapters.rank_pages import PAGE_RANK
from server.model.adapter_pages.host_adapter import PagedAdapter
from server.model.adapter_pages.page_layout import ModulePlace, PageLayout, VectorPlace
from server.model.adapter_pages.page_vectors import vector_views
from server.model.adapter_pages.row_table import PlacedTable, RowTable
from server.model.adapter_pages.special_parts import SpecialParts


@dataclass(frozen=True)
class Resident:
    """An adapter with special parts, as it lies in the bank."""

    parts: SpecialParts
    pages: tuple[int, ...]
    pages_PE: torch.Tensor

    def table(self, table: RowTable) -> PlacedTable:
        """One of its tables."""
        return PlacedTable(table, self.pages_PE, self.pages)


class AdapterBank:
    """Owns `pages` [num_pages, page_elements], `module_scales` [num_pages, num_modules] and
    `vector_flags` [num_pages, num_vectors] uint8 on the host (`VectorBits`).

    Which page belongs to whom is decided in `server.scheduling.slots`; a page whose scale for a
    module is 0 doesn't touch that module, so pages of other kinds may stand in any work list.
    """

    def __init__(
        self, layout: PageLayout, num_pages: int, *, dtype: torch.dtype, device: str
    ) -> None:
        self.layout = layout
        self.pages = torch.zeros(num_pages, layout.page_elements, dtype=dtype, device=device)
        self.module_scales = torch.zeros(num_pages, len(layout.places), device=device)
        self.vector_flags = torch.zeros(num_pages, len(layout.vectors), dtype=torch.uint8)
        self.vector_pages: set[int] = set()
        self.residents: dict[int, Resident] = {}  # by first page

    @property
    def size_bytes(self) -> int:
        return self.pages.nbytes + self.module_scales.nbytes

    def place(self, pages: Sequence[int], adapter: PagedAdapter) -> None:
        """Copy `adapter` into `pages`, overwriting whoever was there."""
        assert len(pages) == adapter.num_pages, (len(pages), adapter.num_pages)
        for index, page in enumerate(pages):
            self.pages[page].copy_(adapter.pages[index], non_blocking=True)
            self.module_scales[page].copy_(adapter.module_scales[index], non_blocking=True)
            self.residents.pop(page, None)
            self.vector_pages.discard(page)
            self.vector_flags[page] = 0
        if adapter.vector_page is not None and adapter.vector_flags is not None:
            page = pages[adapter.vector_page]
            self.vector_flags[page] = adapter.vector_flags
            self.vector_pages.add(page)
        if not adapter.parts.is_empty:
            self.residents[pages[0]] = Resident(adapter.parts, tuple(pages), self.pages)

    def factors(self, place: ModulePlace) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of all pages' A [pages, PAGE_RANK, K] and B [pages, PAGE_RANK, N] of a module."""
        end = place.b_offset + PAGE_RANK * place.out_features
        num_pages = self.pages.shape[0]
        a = self.pages[:, place.a_offset : place.b_offset]
        b = self.pages[:, place.b_offset : end]
        return a.view(num_pages, PAGE_RANK, -1), b.view(num_pages, PAGE_RANK, -1)

    def vectors(self, place: VectorPlace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of all pages' output scale [pages, N], output bias [pages, N] and input scale
        [pages, K] of a module, in float32; only those of vector pages mean something."""
        return vector_views(self.pages, place)
