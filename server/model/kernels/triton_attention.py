"""Paged attention as a Triton kernel, for decode rows and prefill chunks.

Not yet run on a GPU: `tests/kernels` compares it with the reference in Triton's interpreter, and
compiles it for sm_80 and sm_90. Importing this file needs triton, which is no dependency of the
server; `server.model.kernels.backends` imports it only where it is used.

The online softmax of FlashAttention (arXiv:2205.14135) over keys gathered through the block table.
One program attends for all query heads of one kv head, so that grouped heads read the cache once.
Decode rows share a long sequence out over several programs (Flash-Decoding) in pieces of fixed
length, which a second kernel merges in order: no sum's order depends on the batch.

Axes: T tokens, R rows, H query heads, K kv heads, G = H / K, S pieces of a sequence, D head dim,
M = (query token, head of the group) pairs of one program, N keys of one block.
"""

import torch
import triton
import triton.language as tl

from server.model.geometry import AttentionOptions
from server.model.kernels import reference
from server.model.kv_cache import KVCache
from server.model.step.step_inputs import StepInputs

PIECE_TOKENS = 512
"""Cached tokens that one program of a decode row attends to."""

_DECODE_M = 16
_CHUNK_M = 64
_WHOLE = 1 << 30


def attend(
    queries_THD: torch.Tensor,
    cache: KVCache,
    layer: int,
    step: StepInputs,
    options: AttentionOptions,
    *,
    piece_tokens: int = PIECE_TOKENS,
) -> torch.Tensor:
    """Causal attention of every row over its own cached tokens; returns [T, H, D].

    As `reference.attend`, with scores, softmax and sums in float32 and the weights in the cache's
    dtype. Nothing is read back from the device. `piece_tokens` is a multiple of 64.
    """
    if options.sinks_H is not None:
        return reference.attend(queries_THD, cache, layer, step, options)
    if queries_THD.stride(2) != 1:
        queries_THD = queries_THD.contiguous()
    out_THD = queries_THD.new_empty(*queries_THD.shape[:2], cache.values[layer].shape[-1])
    num_decode = step.num_decode_rows
    if num_decode:
        longest = max(step.starts[:num_decode]) + 1
        num_pieces = triton.cdiv(longest, piece_tokens)
        _launch(
            out_THD, queries_THD, cache, layer, step, options,
            first_row=0, num_rows=num_decode, piece_tokens=piece_tokens, num_pieces=num_pieces,
        )  # fmt: skip
    if num_decode < step.num_rows:
        _launch(
            out_THD, queries_THD, cache, layer, step, options,
            first_row=num_decode, num_rows=step.num_rows - num_decode,
            piece_tokens=_WHOLE, num_pieces=1,
        )  # fmt: skip
    return out_THD


def _launch(
    out_THD: torch.Tensor,
    queries_THD: torch.Tensor,
    cache: KVCache,
    layer: int,
    step: StepInputs,
    options: AttentionOptions,
    *,
    first_row: int,
    num_rows: int,
    piece_tokens: int,
    num_pieces: int,
) -> None:
    """Attend for `num_rows` rows from `first_row` on: all decode rows, or all chunks."""
    num_tokens, num_heads = queries_THD.shape[:2]
    keys, values = cache.keys[layer], cache.values[layer]
    num_kv_heads, key_dim, value_dim = keys.shape[2], keys.shape[3], values.shape[3]
    group = num_heads // num_kv_heads
    is_decode = first_row == 0 and step.num_decode_rows > 0
    widest = max(key_dim, value_dim)
    # Wide heads in float32 take small blocks, so that they fit in any GPU's shared memory.
    chunk_m = _CHUNK_M if widest * keys.element_size() <= 512 else _DECODE_M
    block_m = max(_DECODE_M if is_decode else chunk_m, triton.next_power_of_2(group))
    tile_queries = block_m // group
    # A chunk of q queries takes at most q // tile_queries + 1 tiles; the kernel finds its own.
    num_tiles = num_rows if is_decode else (num_tokens - first_row) // tile_queries + num_rows
    pieces_THSD, pieces_max, pieces_sum = _piece_buffers(out_THD, num_pieces)
    _attend_kernel[(num_tiles, num_kv_heads, num_pieces)](
        out_THD, pieces_THSD, pieces_max, pieces_sum,
        queries_THD, keys, values, pieces_max if options.slopes_H is None else options.slopes_H,
        step.query_starts[first_row:], step.seq_lens[first_row:], step.block_tables[first_row:],
        num_rows, options.scale, options.sliding_window or _WHOLE, options.softcap or 1.0,
        cache.block_size,
        queries_THD.stride(0), queries_THD.stride(1),
        keys.stride(1), keys.stride(2), values.stride(1), values.stride(2),
        step.block_tables.stride(0), num_pieces, piece_tokens,
        NUM_HEADS=num_heads, GROUP=group, KEY_DIM=key_dim, VALUE_DIM=value_dim,
        BLOCK_KEY=max(16, triton.next_power_of_2(key_dim)),
        BLOCK_VALUE=max(16, triton.next_power_of_2(value_dim)),
        BLOCK_M=block_m, BLOCK_N=64 if widest <= 128 else 32,
        TILE_QUERIES=tile_queries, IS_DECODE=is_decode, HAS_SOFTCAP=options.softcap is not None,
        HAS_SLOPES=options.slopes_H is not None, HAS_PIECES=num_pieces > 1,
    )  # fmt: skip
    if num_pieces > 1:
        _merge_kernel[(num_rows, num_heads)](
            out_THD, pieces_THSD, pieces_max, pieces_sum, num_pieces,
            NUM_HEADS=num_heads, VALUE_DIM=value_dim,
            BLOCK_VALUE=max(16, triton.next_power_of_2(value_dim)),
        )  # fmt: skip


def _piece_buffers(
    out_THD: torch.Tensor, num_pieces: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unnormalised sums [T, H, S, D], and maximum and sum of weights [T, H, S], in float32."""
    if num_pieces == 1:
        return out_THD, out_THD, out_THD  # not used by the kernel
    shape = (*out_THD.shape[:2], num_pieces)
    return (
        out_THD.new_empty((*shape, out_THD.shape[2]), dtype=torch.float32),
        out_THD.new_empty(shape, dtype=torch.float32),
        out_THD.new_empty(shape, dtype=torch.float32),
    )


@triton.jit  # type: ignore[untyped-decorator]
def _find_row(
    tile: tl.tensor, query_starts: tl.tensor, num_rows: tl.tensor, TILE_QUERIES: tl.constexpr
) -> tl.tensor:
    """The row that `tile` belongs to when row r's tiles start at its first query // size + r."""
    origin = tl.load(query_starts)
    low = 0
    high = num_rows
    while high - low > 1:
        middle = (low + high) // 2
        first = (tl.load(query_starts + middle) - origin) // TILE_QUERIES + middle
        if first <= tile:
            low = middle
        else:
            high = middle
    return low


# What differs from step to step must not compile another variant.
@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_rows", "table_stride", "num_pieces", "piece_tokens"],
    do_not_specialize_on_alignment=["query_starts", "seq_lens", "block_tables"],
)
def _attend_kernel(
    out: tl.tensor,
    pieces: tl.tensor,
    pieces_max: tl.tensor,
    pieces_sum: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    slopes: tl.tensor,
    query_starts: tl.tensor,
    seq_lens: tl.tensor,
    block_tables: tl.tensor,
    num_rows: tl.tensor,
    scale: tl.tensor,
    window: tl.tensor,
    softcap: tl.tensor,
    block_size: tl.tensor,
    query_token_stride: tl.tensor,
    query_head_stride: tl.tensor,
    key_slot_stride: tl.tensor,
    key_head_stride: tl.tensor,
    value_slot_stride: tl.tensor,
    value_head_stride: tl.tensor,
    table_stride: tl.tensor,
    num_pieces: tl.tensor,
    piece_tokens: tl.tensor,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_KEY: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    IS_DECODE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    HAS_PIECES: tl.constexpr,
) -> None:
    """Grid (tiles of queries, kv heads, pieces of the sequence).

    Writes `out`, or with several pieces the unnormalised sums that `_merge_kernel` finishes.
    """
    tile, kv_head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if IS_DECODE:
        row = tile
        offset = 0
    else:
        row = _find_row(tile, query_starts, num_rows, TILE_QUERIES)
        before = tl.load(query_starts + row) - tl.load(query_starts)
        offset = (tile - before // TILE_QUERIES - row) * TILE_QUERIES
    first_token = tl.load(query_starts + row)
    num_queries = tl.load(query_starts + row + 1) - first_token
    if offset >= num_queries:
        return
    seq_len = tl.load(seq_lens + row)

    m = tl.arange(0, BLOCK_M)
    query_M = offset + m // GROUP
    inside_M = (m < TILE_QUERIES * GROUP) & (query_M < num_queries)
    token_M = (first_token + query_M).to(tl.int64)
    head_M = kv_head * GROUP + m % GROUP
    position_M = seq_len - num_queries + query_M
    d = tl.arange(0, BLOCK_KEY)
    query_MD = tl.load(
        queries + (token_M * query_token_stride + head_M * query_head_stride)[:, None] + d[None, :],
        mask=inside_M[:, None] & (d < KEY_DIM)[None, :],
        other=0.0,
    ).to(keys.dtype.element_ty)

    # Keys that any query of the tile may see, cut to this piece.
    first_position = seq_len - num_queries + offset
    end = tl.minimum(first_position + TILE_QUERIES, seq_len)
    start = tl.maximum(first_position - window + 1, 0) // BLOCK_N * BLOCK_N
    if HAS_PIECES:
        start = tl.maximum(start, piece * piece_tokens)
        end = tl.minimum(end, (piece + 1) * piece_tokens)

    e = tl.arange(0, BLOCK_VALUE)
    max_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    total_ME = tl.zeros((BLOCK_M, BLOCK_VALUE), tl.float32)
    for first_key in range(start, end, BLOCK_N):
        n = first_key + tl.arange(0, BLOCK_N)
        inside_N = n < end
        block_N = tl.load(
            block_tables + row * table_stride + n // block_size, mask=inside_N, other=0
        ).to(tl.int64)
        slot_N = block_N * block_size + n % block_size
        key_DN = tl.load(
            keys + (slot_N * key_slot_stride + kv_head * key_head_stride)[None, :] + d[:, None],
            mask=inside_N[None, :] & (d < KEY_DIM)[:, None],
            other=0.0,
        )
        score_MN = tl.dot(query_MD, key_DN, input_precision="ieee") * scale
        if HAS_SOFTCAP:
            # tanh(x) = 1 - 2 / (exp(2x) + 1), which is right at both infinities.
            score_MN = softcap * (1.0 - 2.0 / (tl.exp(2.0 * (score_MN / softcap)) + 1.0))
        distance_MN = position_M[:, None] - n[None, :]
        if HAS_SLOPES:
            slope_M = tl.load(slopes + head_M, mask=inside_M, other=0.0)
            score_MN -= slope_M[:, None] * distance_MN
        seen_MN = (distance_MN >= 0) & (distance_MN < window) & inside_N[None, :]
        score_MN = tl.where(seen_MN, score_MN, float("-inf"))
        new_max_M = tl.maximum(max_M, tl.max(score_MN, 1))
        # A query that has seen no key yet must not turn -inf - -inf into NaN.
        shift_M = tl.where(new_max_M == float("-inf"), 0.0, new_max_M)
        weight_MN = tl.exp(score_MN - shift_M[:, None])
        decay_M = tl.exp(max_M - shift_M)
        value_NE = tl.load(
            values
            + (slot_N * value_slot_stride + kv_head * value_head_stride)[:, None]
            + e[None, :],
            mask=inside_N[:, None] & (e < VALUE_DIM)[None, :],
            other=0.0,
        )
        sum_M = sum_M * decay_M + tl.sum(weight_MN, 1)
        total_ME = tl.dot(
            weight_MN.to(value_NE.dtype),
            value_NE,
            total_ME * decay_M[:, None],
            input_precision="ieee",
        )
        max_M = new_max_M

    place_M = token_M * NUM_HEADS + head_M
    inside_ME = inside_M[:, None] & (e < VALUE_DIM)[None, :]
    if HAS_PIECES:
        place_M = place_M * num_pieces + piece
        tl.store(pieces_max + place_M, max_M, mask=inside_M)
        tl.store(pieces_sum + place_M, sum_M, mask=inside_M)
        tl.store(pieces + (place_M * VALUE_DIM)[:, None] + e[None, :], total_ME, mask=inside_ME)
    else:
        # Queries beyond the end of a chunk see nothing; theirs isn't stored.
        sum_M = tl.where(sum_M > 0.0, sum_M, 1.0)
        tl.store(
            out + (place_M * VALUE_DIM)[:, None] + e[None, :],
            (total_ME / sum_M[:, None]).to(out.dtype.element_ty),
            mask=inside_ME,
        )


@triton.jit(do_not_specialize=["num_pieces"])  # type: ignore[untyped-decorator]
def _merge_kernel(
    out: tl.tensor,
    pieces: tl.tensor,
    pieces_max: tl.tensor,
    pieces_sum: tl.tensor,
    num_pieces: tl.tensor,
    NUM_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
) -> None:
    """out[token, head] from its pieces, in order. Grid (tokens, heads).

    A single piece with keys gives the bits that the kernel without pieces gives: its factor is 1,
    and empty pieces add zeros.
    """
    place = tl.program_id(0).to(tl.int64) * NUM_HEADS + tl.program_id(1)
    e = tl.arange(0, BLOCK_VALUE)
    inside_E = e < VALUE_DIM
    largest = tl.load(pieces_max + place * num_pieces)
    for piece in range(1, num_pieces):
        largest = tl.maximum(largest, tl.load(pieces_max + place * num_pieces + piece))
    total_E = tl.zeros((BLOCK_VALUE,), tl.float32)
    weight = 0.0
    for piece in range(num_pieces):
        part = place * num_pieces + piece
        factor = tl.exp(tl.load(pieces_max + part) - largest)
        weight += factor * tl.load(pieces_sum + part)
        total_E += factor * tl.load(pieces + part * VALUE_DIM + e, mask=inside_E, other=0.0)
    tl.store(
        out + place * VALUE_DIM + e, (total_E / weight).to(out.dtype.element_ty), mask=inside_E
    )
