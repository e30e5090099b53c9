"""Lays out one adapter's tensors as bank pages: rank pages first, a vector page, then row pages."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.rank_pages import PAGE_RANK, pages_for_rank
from server.model.adapter_pages.page_layout import ModulePlace, PageLayout, VectorPlace
from server.model.adapter_pages.page_vectors import INPUT_BIT, OUTPUT_BIT, vector_views
from server.model.adapter_pages.row_table import RowTable

Bits = NDArray[np.generic]


@dataclass(frozen=True)
class _Factors:
    """A [r, K] and B [N, r] of a linear; the delta is `scaling` * B A."""

    place: ModulePlace
    a_RK: torch.Tensor
    b_NR: torch.Tensor
    scaling: float


@dataclass
class _Vectors:
    """float32 output scale and bias [N], input scale [K], as changes of the base's."""

    scale_N: torch.Tensor | None = None
    bias_N: torch.Tensor | None = None
    input_K: torch.Tensor | None = None


@dataclass(frozen=True)
class BuiltPages:
    """`pages` [P, E], `module_scales` [P, modules], and where the other kinds of pages are."""

    pages: torch.Tensor
    module_scales: torch.Tensor
    vector_page: int | None
    vector_flags: torch.Tensor


@dataclass
class PageBuilder:
    """Collects the parts of one adapter; `build` lays them out. Says if anything has an effect."""

    layout: PageLayout
    dtype: torch.dtype
    has_effect: bool = False
    _factors: list[_Factors] = field(default_factory=list)
    _vectors: dict[int, _Vectors] = field(default_factory=dict)
    _tables: list[tuple[RowTable, torch.Tensor]] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """The largest rank so far."""
        return max((f.a_RK.shape[0] for f in self._factors), default=0)

    @property
    def has_vectors(self) -> bool:
        return bool(self._vectors)

    def add_factors(
        self, place: ModulePlace, a_RK: torch.Tensor, b_NR: torch.Tensor, scaling: float
    ) -> None:
        """The delta `scaling` * B A of a linear. Raises `ValueError` for shapes of another base."""
        rank = a_RK.shape[0]
        wanted = ((rank, place.in_features), (place.out_features, rank))
        if (tuple(a_RK.shape), tuple(b_NR.shape)) != wanted:
            raise ValueError(
                f"{place.name}: A {tuple(a_RK.shape)} and B {tuple(b_NR.shape)} don't fit this "
                f"base ({place.in_features} inputs, {place.out_features} outputs)"
            )
        self.has_effect = self.has_effect or bool(b_NR.any() and a_RK.any())
        self._factors.append(_Factors(place, a_RK, b_NR, scaling))

    def add_outputs(
        self,
        place: VectorPlace,
        scale_N: torch.Tensor | None = None,
        bias_N: torch.Tensor | None = None,
        *,
        noise: float = 0.0,
    ) -> None:
        """out += scale * out + bias; both are added to what was given before.

        A scale of at most `noise` is no sign of an effect.
        """
        vectors = self._vectors.setdefault(place.index, _Vectors())
        if scale_N is not None:
            scale_N = _fitting(place, scale_N, place.out_features)
            self.has_effect |= bool((scale_N.abs() > noise).any())
            vectors.scale_N = scale_N if vectors.scale_N is None else vectors.scale_N + scale_N
        if bias_N is not None:
            bias_N = _fitting(place, bias_N, place.out_features)
            self.has_effect |= scale_N is None and bool((bias_N != 0).any())
            vectors.bias_N = bias_N if vectors.bias_N is None else vectors.bias_N + bias_N

    def add_inputs(self, place: VectorPlace, scale_K: torch.Tensor) -> None:
        """The base's inputs become x + scale * x."""
        scale_K = _fitting(place, scale_K, place.in_features)
        self.has_effect |= bool((scale_K != 0).any())
        self._vectors.setdefault(place.index, _Vectors()).input_K = scale_K

    def add_table(self, name: str, rows_RC: torch.Tensor) -> RowTable:
        """A matrix whose rows are looked up. Raises `ValueError` when a row is longer than a page.

        Its place counts from the first row page; `build` puts the others before it.
        """
        num_rows, length = rows_RC.shape
        size = self.layout.page_elements
        if length > size:
            raise ValueError(f"{name}: a row of {length} values is longer than a page of {size}")
        first_page, offset = self._next_place(num_rows * length)
        per_page = num_rows if num_rows * length <= size - offset else size // length
        table = RowTable(num_rows, length, first_page, offset, per_page)
        self._tables.append((table, rows_RC))
        return table

    def num_pages_before_tables(self) -> int:
        """How many pages `build` puts before the first row page, given all factors and vectors."""
        return pages_for_rank(self.rank) + bool(self._vectors)

    def build(self) -> BuiltPages:
        """All pages, filled."""
        before = self.num_pages_before_tables()
        last = max((t.first_page + t.num_pages for t, _ in self._tables), default=0)
        pages = torch.zeros(before + last, self.layout.page_elements, dtype=self.dtype)
        scales = torch.zeros(before + last, len(self.layout.places))
        raw, raw_scales = _bits(pages), scales.numpy()
        for factors in self._factors:
            self._fill_factors(raw, raw_scales, factors)
        flags = torch.zeros(len(self.layout.vectors), dtype=torch.uint8)
        vector_page = before - 1 if self._vectors else None
        if vector_page is not None:
            self._fill_vectors(pages[vector_page : vector_page + 1], flags)
        for table, rows in self._tables:
            self._fill_table(pages[before:], table, rows)
        return BuiltPages(pages, scales, vector_page, flags)

    def _next_place(self, num_elements: int) -> tuple[int, int]:
        """Behind the last table where all fits there, else a fresh page."""
        if not self._tables:
            return 0, 0
        last = self._tables[-1][0]
        end = last.offset + last.num_rows * last.row_length
        if last.num_pages == 1 and end + num_elements <= self.layout.page_elements:
            return last.first_page, end
        return last.first_page + last.num_pages, 0

    def _fill_factors(self, pages: Bits, scales: Bits, factors: _Factors) -> None:
        """By NumPy: there are hundreds of small copies, and torch takes longer to begin one."""
        place, rank = factors.place, factors.a_RK.shape[0]
        a_RK, b_NR = _bits(factors.a_RK.to(self.dtype)), _bits(factors.b_NR.to(self.dtype))
        for page in range(pages_for_rank(rank)):
            first, end = page * PAGE_RANK, min(rank, (page + 1) * PAGE_RANK)
            a = pages[page, place.a_offset : place.b_offset]
            b = pages[page, place.b_offset : place.b_offset + PAGE_RANK * place.out_features]
            a.reshape(PAGE_RANK, -1)[: end - first] = a_RK[first:end]
            b.reshape(PAGE_RANK, -1)[: end - first] = b_NR[:, first:end].T
            scales[page, place.index] = factors.scaling

    def _fill_vectors(self, page: torch.Tensor, flags: torch.Tensor) -> None:
        for place in self.layout.vectors:
            vectors = self._vectors.get(place.index)
            if vectors is None:
                continue
            scale, bias, inputs = vector_views(page, place)
            if vectors.scale_N is not None:
                scale[0] = vectors.scale_N
            if vectors.bias_N is not None:
                bias[0] = vectors.bias_N
            if vectors.scale_N is not None or vectors.bias_N is not None:
                flags[place.index] |= OUTPUT_BIT
            if vectors.input_K is not None:
                inputs[0] = vectors.input_K
                flags[place.index] |= INPUT_BIT

    def _fill_table(self, pages: torch.Tensor, table: RowTable, rows_RC: torch.Tensor) -> None:
        for index in range(table.num_pages):
            part = rows_RC[index * table.rows_per_page : (index + 1) * table.rows_per_page]
            end = table.offset + part.numel()
            pages[table.first_page + index, table.offset : end] = part.reshape(-1).to(self.dtype)


def _bits(tensor: torch.Tensor) -> Bits:
    """The same memory for NumPy, which knows no bfloat16."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    array: Bits = tensor.numpy()
    return array


def _fitting(place: VectorPlace, vector: torch.Tensor, size: int) -> torch.Tensor:
    flat = vector.float().flatten()
    if len(flat) != size:
        raise ValueError(f"{place.name}: a vector has {len(flat)} values; this base needs {size}")
    return flat
