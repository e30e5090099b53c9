"""Single native operations over torch tensors, and the data that describes adapter work.

Axes in names: R rows of the batch (sequences), T tokens of all rows, K inputs, N outputs,
H heads, D head size, B blocks of the KV cache, P pages of the bank, M modules.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adapters.rank_pages import PAGE_RANK
from server.native import abi
from server.native.build import NativeLibrary
from server.native.weights import PackedWeight, require_tensor

_LANES = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """Columns [column, column + num_columns) of a packed projection are bank module `module`."""

    module: int
    column: int
    num_columns: int


@dataclass(frozen=True)
class Projection:
    """A packed projection, its bias (fp32 [N]) and the adapted modules in it (at most 3)."""

    weight: PackedWeight
    bias: Tensor | None = None
    segments: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.segments) <= abi.MAX_SEGMENTS, self.segments
        if self.bias is not None:
            require_tensor("bias", self.bias, torch.float32, (self.weight.num_outputs,))
        for segment in self.segments:
            end = segment.column + segment.num_columns
            assert 0 <= segment.column <= end <= self.weight.num_outputs, segment

    @cached_property
    def structure(self) -> abi.Projection:
        """The C view; borrows this object's tensors."""
        segments = (abi.Segment * abi.MAX_SEGMENTS)()
        used = [s for s in self.segments if s.module >= 0]
        for index, segment in enumerate(used):
            segments[index] = abi.Segment(segment.module, segment.column, segment.num_columns, 0)
        bias = None if self.bias is None else self.bias.data_ptr()
        return abi.Projection(self.weight.structure, bias, segments, len(used), 0)


@dataclass(frozen=True)
class NativeBank:
    """The adapter bank: 8 rank components of one adapter, for all modules, in each page.

    `pages_PE` bf16 [pages, elements]; module m has A [8, in] at `a_offsets_M[m]` and B [8, out] at
    `b_offsets_M[m]` (int64, in elements); `in_features_M`, `out_features_M` int32;
    `module_scales_PM` fp32: alpha/r of the page's adapter for the module, 0 where it has none.
    `vector_flags_PV` uint8 says which vectors a page holds instead (csrc/lora/vectors.h), the
    modules' first; None: there are none. The tensors are read at every step: fill them in place.
    """

    pages_PE: Tensor
    a_offsets_M: Tensor
    b_offsets_M: Tensor
    in_features_M: Tensor
    out_features_M: Tensor
    module_scales_PM: Tensor
    vector_flags_PV: Tensor | None = None

    def __post_init__(self) -> None:
        num_modules = self.a_offsets_M.shape[0]
        num_pages = self.pages_PE.shape[0]
        require_tensor("pages", self.pages_PE, torch.bfloat16, (None, None))
        require_tensor("a_offsets", self.a_offsets_M, torch.int64, (num_modules,))
        require_tensor("b_offsets", self.b_offsets_M, torch.int64, (num_modules,))
        require_tensor("in_features", self.in_features_M, torch.int32, (num_modules,))
        require_tensor("out_features", self.out_features_M, torch.int32, (num_modules,))
        require_tensor(
            "module_scales", self.module_scales_PM, torch.float32, (num_pages, num_modules)
        )
        if self.vector_flags_PV is not None:
            require_tensor("vector_flags", self.vector_flags_PV, torch.uint8, (num_pages, None))
        ends = torch.maximum(
            self.a_offsets_M + PAGE_RANK * self.in_features_M,
            self.b_offsets_M + PAGE_RANK * self.out_features_M,
        )
        if num_modules and int(ends.max()) > self.pages_PE.shape[1]:
            raise ValueError(
                f"a page has {self.pages_PE.shape[1]} elements; its modules need {int(ends.max())}"
            )

    @cached_property
    def structure(self) -> abi.Bank:
        """The C view; borrows this object's tensors."""
        flags = self.vector_flags_PV
        return abi.Bank(
            self.pages_PE.data_ptr(), self.pages_PE.shape[1], self.pages_PE.shape[0],
            self.a_offsets_M.shape[0], self.a_offsets_M.data_ptr(), self.b_offsets_M.data_ptr(),
            self.in_features_M.data_ptr(), self.out_features_M.data_ptr(),
            self.module_scales_PM.data_ptr(),
            None if flags is None else flags.data_ptr(),
            0 if flags is None else flags.shape[1],
        )  # fmt: skip


@dataclass(frozen=True)
class WorkList:
    """Adapter work of a step: row r applies `pages[offsets[r]:offsets[r + 1]]` times `scales`."""

    offsets: Tensor
    pages: Tensor
    scales: Tensor

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[tuple[int, float]]]) -> "WorkList":
        """One list of (page, scale) per row of the batch."""
        offsets = [0]
        for row in rows:
            offsets.append(offsets[-1] + len(row))
        flat = [item for row in rows for item in row]
        return cls(
            torch.tensor(offsets, dtype=torch.int32),
            torch.tensor([page for page, _ in flat], dtype=torch.int32),
            torch.tensor([scale for _, scale in flat], dtype=torch.float32),
        )

    def checked_structure(self, num_rows: int) -> abi.Work:
        """The C view. Raises `ValueError` when shapes don't fit `num_rows`."""
        require_tensor("work offsets", self.offsets, torch.int32, (num_rows + 1,))
        require_tensor("work pages", self.pages, torch.int32, (None,))
        require_tensor("work scales", self.scales, torch.float32, (self.pages.shape[0],))
        return abi.Work(self.offsets.data_ptr(), self.pages.data_ptr(), self.scales.data_ptr())


@dataclass(frozen=True)
class PagedBatch:
    """Ragged rows over a paged KV cache, all int32: `query_starts` [R + 1] (first token of each
    row), `seq_lens` [R] (keys of each row, this step's included), `block_tables` [R, blocks].
    """

    query_starts: Tensor
    seq_lens: Tensor
    block_tables: Tensor

    @property
    def num_rows(self) -> int:
        return self.seq_lens.shape[0]

    def check(self) -> None:
        """Raises `ValueError` for wrong types or shapes."""
        rows = self.num_rows
        require_tensor("query_starts", self.query_starts, torch.int32, (rows + 1,))
        require_tensor("seq_lens", self.seq_lens, torch.int32, (rows,))
        require_tensor("block_tables", self.block_tables, torch.int32, (rows, None))


class NativeOps:
    """The kernels with their own threads, which sleep when idle. Close it to end them.

    Threads: `num_threads`, by default one per core this process may use; the calling thread is one
    of them. Calls from several threads take turns.
    """

    def __init__(self, library: NativeLibrary, num_threads: int | None = None) -> None:
        self.library = library
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        self._functions = library.functions
        self._pool: int | None = library.functions.sy_pool_create(self.num_threads)

    @property
    def pool(self) -> int:
        """The handle that C calls take."""
        assert self._pool is not None, "these NativeOps are closed"
        return self._pool

    def close(self) -> None:
        """Ends the threads. No call may be running; a second close does nothing."""
        if self._pool is not None:
            self._functions.sy_pool_destroy(self._pool)
            self._pool = None

    def linear(
        self, x_TK: Tensor, weight: PackedWeight, bias: Tensor | None = None,
        out_dtype: torch.dtype = torch.bfloat16,
    ) -> Tensor:  # fmt: skip
        """x W^T (+ fp32 bias), [T, N] in bf16 or fp32. x is bf16; sums are fp32 in one order, so a
        row's bits don't depend on the other rows."""
        num_inputs, num_outputs = weight.num_inputs, weight.num_outputs
        require_tensor("x", x_TK, torch.bfloat16, (None, num_inputs))
        if bias is not None:
            require_tensor("bias", bias, torch.float32, (num_outputs,))
        if out_dtype not in (torch.bfloat16, torch.float32):
            raise ValueError(f"out_dtype is {out_dtype}; use bfloat16 or float32")
        num_rows = x_TK.shape[0]
        width = -(-num_outputs // _LANES) * _LANES
        sums = torch.empty(num_rows, width, dtype=torch.float32)
        rounded: Tensor | None = None
        if out_dtype == torch.bfloat16:
            rounded = torch.empty(num_rows, num_outputs, dtype=torch.bfloat16)
        if num_rows:
            padded = _spread_rows(x_TK)
            self._functions.sy_linear(
                self.pool, weight.structure, None if bias is None else bias.data_ptr(),
                padded.data_ptr(), padded.stride(0), num_rows, sums.data_ptr(), width,
                None if rounded is None else rounded.data_ptr(),
            )  # fmt: skip
        return sums[:, :num_outputs] if rounded is None else rounded

    def add_lora(
        self, y_TN: Tensor, x_TK: Tensor, bank: NativeBank, projection: Projection,
        work: WorkList, query_starts: Tensor,
    ) -> None:  # fmt: skip
        """y += the adapters' deltas of `projection`, in place. y fp32, x bf16; `query_starts` int32
        [R + 1] says which tokens are row r's. Only the projection's segments are used."""
        num_rows = query_starts.shape[0] - 1
        require_tensor("query_starts", query_starts, torch.int32, (num_rows + 1,))
        require_tensor("x", x_TK, torch.bfloat16, (None, None))
        require_tensor("y", y_TN, torch.float32, (x_TK.shape[0], None))
        work_structure = work.checked_structure(num_rows)
        self._functions.sy_lora(
            self.pool, bank.structure, projection.structure, work_structure,
            query_starts.data_ptr(), num_rows, x_TK.data_ptr(), x_TK.shape[1],
            y_TN.data_ptr(), y_TN.shape[1],
        )  # fmt: skip

    def attention(
        self, queries_THD: Tensor, keys_BSHD: Tensor, values_BSHD: Tensor, batch: PagedBatch, *,
        scale: float, window: int = 0, softcap: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Causal attention of the batch's newest tokens over their paged keys, bf16 [T, H, D].

        `keys_BSHD`/`values_BSHD` are one layer of the cache: [blocks, block_size, kv_heads, D], the
        new tokens' keys already written. `window` 0 sees all keys; `softcap` 0 is none.
        """
        batch.check()
        _, num_heads, head_dim = queries_THD.shape
        num_blocks, block_size, num_kv_heads, _ = keys_BSHD.shape
        require_tensor("queries", queries_THD, torch.bfloat16, (None, num_heads, head_dim))
        shape = (num_blocks, block_size, num_kv_heads, head_dim)
        require_tensor("keys", keys_BSHD, torch.bfloat16, shape)
        require_tensor("values", values_BSHD, torch.bfloat16, shape)
        if num_heads % num_kv_heads or head_dim % 2:
            raise ValueError(
                f"{num_heads} heads over {num_kv_heads} kv heads of size {head_dim}: the heads "
                "must divide evenly and the size be even"
            )
        output = torch.empty_like(queries_THD)
        if batch.num_rows:
            arguments = abi.Attention(
                queries_THD.data_ptr(), output.data_ptr(), num_heads * head_dim,
                keys_BSHD.data_ptr(), values_BSHD.data_ptr(), batch.query_starts.data_ptr(),
                batch.seq_lens.data_ptr(), batch.block_tables.data_ptr(),
                batch.num_rows, batch.block_tables.shape[1], num_heads, num_kv_heads, head_dim,
                block_size, window, 0, scale, softcap,
            )  # fmt: skip
            self._functions.sy_attention(self.pool, arguments)
        return output

    def rms_norm(self, x_TN: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight, fp32 in, bf16 out."""
        require_tensor("x", x_TN, torch.float32, (None, None))
        require_tensor("weight", weight, torch.float32, (x_TN.shape[1],))
        out = torch.empty_like(x_TN, dtype=torch.bfloat16)
        self._functions.sy_rms_norm(
            x_TN.data_ptr(), weight.data_ptr(), x_TN.shape[0], x_TN.shape[1], eps, out.data_ptr()
        )
        return out


def _spread_rows(x_TK: Tensor) -> Tensor:
    """`x`, its rows moved apart when their distance is a power of two: such rows share a few sets
    of the first-level cache and push each other out."""
    row_bytes = 2 * x_TK.shape[1]
    if x_TK.shape[0] <= 4 or row_bytes % 1024:
        return x_TK
    spread = torch.empty(x_TK.shape[0], x_TK.shape[1] + 32, dtype=x_TK.dtype)
    spread[:, : x_TK.shape[1]] = x_TK
    return spread
