"""The adapter bank: pages of adapters on the device, preallocated."""

from collections.abc import Sequence

import torch

from adapters.rank_pages import PAGE_RANK
from server.model.host_adapter import PagedAdapter
from server.model.page_layout import ModulePlace, PageLayout


class AdapterBank:
    """Owns `pages` [num_pages, page_elements] and `module_scales` [num_pages, num_modules].

    Which page belongs to whom is decided in `server.scheduling.slots`; a page whose scale for a
    module is 0 doesn't touch that module.
    """

    def __init__(
        self, layout: PageLayout, num_pages: int, *, dtype: torch.dtype, device: str
    ) -> None:
        self.layout = layout
        self.pages = torch.zeros(num_pages, layout.page_elements, dtype=dtype, device=device)
        self.module_scales = torch.zeros(num_pages, len(layout.places), device=device)

    @property
    def size_bytes(self) -> int:
        return self.pages.nbytes + self.module_scales.nbytes

    def place(self, pages: Sequence[int], adapter: PagedAdapter) -> None:
        """Copy `adapter` into `pages`, overwriting whoever was there."""
        assert len(pages) == adapter.num_pages, (len(pages), adapter.num_pages)
        for index, page in enumerate(pages):
            self.pages[page].copy_(adapter.pages[index], non_blocking=True)
            self.module_scales[page].copy_(adapter.module_scales, non_blocking=True)

    def factors(self, place: ModulePlace) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of all pages' A [pages, PAGE_RANK, K] and B [pages, PAGE_RANK, N] of a module."""
        end = place.b_offset + PAGE_RANK * place.out_features
        num_pages = self.pages.shape[0]
        a = self.pages[:, place.a_offset : place.b_offset]
        b = self.pages[:, place.b_offset : end]
        return a.view(num_pages, PAGE_RANK, -1), b.view(num_pages, PAGE_RANK, -1)
