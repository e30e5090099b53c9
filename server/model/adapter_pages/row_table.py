"""Matrices in row pages of the bank: rows of embeddings, output heads, virtual tokens, prefixes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class RowTable:
    """A matrix [num_rows, row_length] over an adapter's pages, no row across two of them.

    Its first row is at `offset` elements in page `first_page` (counted within the adapter); each
    page holds `rows_per_page` of them, from the same offset on.
    """

    num_rows: int
    row_length: int
    first_page: int
    offset: int
    rows_per_page: int

    @property
    def num_pages(self) -> int:
        return -(-self.num_rows // self.rows_per_page)


@dataclass(frozen=True)
class PlacedTable:
    """A table as it lies in the bank: `pages_PE` are all pages, `pages` those of its adapter."""

    table: RowTable
    pages_PE: torch.Tensor
    pages: Sequence[int]

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Copies of rows `indices` (int64 [n]): [n, row_length]."""
        table = self.table
        size = table.rows_per_page * table.row_length
        view = self.pages_PE[:, table.offset : table.offset + size]
        view_PRC = view.view(-1, table.rows_per_page, table.row_length)
        pages = torch.tensor(
            self.pages[table.first_page : table.first_page + table.num_pages],
            device=indices.device,
        )
        page = pages[indices // table.rows_per_page]
        rows: torch.Tensor = view_PRC[page, indices % table.rows_per_page]
        return rows

    def parts(self) -> Iterator[torch.Tensor]:
        """The whole matrix, page by page, as views [n, row_length]."""
        table = self.table
        left = table.num_rows
        for page in self.pages[table.first_page : table.first_page + table.num_pages]:
            count = min(left, table.rows_per_page)
            end = table.offset + count * table.row_length
            yield self.pages_PE[page, table.offset : end].view(count, table.row_length)
            left -= count

    def times(self, inputs_TC: torch.Tensor) -> torch.Tensor:
        """inputs [T, row_length] times the transpose: float32 [T, num_rows]."""
        parts = [(inputs_TC.to(part.dtype) @ part.T).float() for part in self.parts()]
        return torch.cat(parts, 1)
