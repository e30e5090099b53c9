// Packed weight layouts and the projections over them. All layouts are tiles of 16 outputs
// ("tile16"), outputs padded with zeros to a multiple of 16; k is contiguous inside a tile, so that
// one thread streams a tile from memory at full speed.
//
//   BF16  [n/16][k/2][16 lanes] dwords: lane j of a line is outputs[j] at (k, k+1).
//   NF4   [n/16][k/64][8 lines][16 lanes] dwords of eight codes, absmax [n/16][k/64][16] fp32: see
//         nf4_layout.h.
//   INT8  [n/16][k/4][16 lanes] dwords; byte i of lane j is output 8 * (i % 2) + j / 2 at
//         k = 4 * line + 2 * (i / 2) + j % 2. One fp32 scale per output, applied to the sum.
//
// For products with int8 activations (byte_tiles.h):
//   NF4_BYTES   as NF4, the codes in their own order.
//   INT8_BYTES  [n/16][k/4][16 lanes] dwords, k filled up to 8s; byte i of lane j is output j at
//               k = 4 * line + i, plus 128.
#pragma once

#include "abi.h"
#include "weights/byte_tiles.h"
#include "weights/nf4_layout.h"
#include "simd/tile.h"
#if defined(SY_QUADS)
#include "simd/quads.h"
#endif
#if defined(SY_AMX)
#include "simd/amx_tiles.h"
#endif

// Up to this many rows a tile is bound by memory: its thread takes runs of tiles and asks ahead for
// their codes, at most kCodeLinesAhead lines.
constexpr int kFewRows = 4;
constexpr int kCodeLinesAhead = 64;
constexpr int kTouchesPerLine = 3;

static inline int64_t tile_dwords(const SyWeight& w) {
    switch (w.kind) {
        case SY_NF4:
        case SY_NF4_BYTES: return static_cast<int64_t>(w.k) * 2;
        case SY_INT8: return static_cast<int64_t>(w.k) * 4;
        case SY_INT8_BYTES: return round_up(w.k, 8) * 4;
        default: return static_cast<int64_t>(w.k) * 8;
    }
}
static inline int num_tiles16(const SyWeight& w) { return (w.n + kLanes - 1) / kLanes; }
static inline int num_tiles32(const SyWeight& w) { return (w.n + 2 * kLanes - 1) / (2 * kLanes); }
static inline const uint32_t* tile16(const SyWeight& w, int64_t tile) {
    return static_cast<const uint32_t*>(w.data) + tile * tile_dwords(w);
}

// Where a tile16 of packed codes gives its weights, four pairs (8 k) at a time for NF4 and two for
// INT8, in ascending k.
struct Nf4Source {
    static constexpr int kPairsPerLine = 4;
    const uint32_t* codes;
    const float* absmax;
    CodeTable table;
    F16 low_scale, high_scale;
    Nf4Source(const SyWeight& w, int64_t tile)
        : codes(tile16(w, tile)), absmax(w.scales + tile * (w.k / 4)), table(w.code),
          low_scale(zero()), high_scale(zero()) {}
    void ask_for(int line) const {
        __builtin_prefetch(codes + line * kLanes, 0, 3);
        if (line % 8 == 0) __builtin_prefetch(absmax + 2 * line, 0, 3);
    }
    void begin_line(int line) {
        if (line % 8 == 0) {
            const F16 scale = load(absmax + 2 * line);
            low_scale = duplicate_low(scale);
            high_scale = duplicate_high(scale);
        }
    }
    P16 load_line(int line) const { return load_pairs(codes + line * kLanes); }
    template <int kPair>
    P16 pair(P16 line) const {
        return round_pairs(mul(table.lookup<8 * kPair>(line), low_scale),
                           mul(table.lookup<8 * kPair + 4>(line), high_scale));
    }
};

struct Int8Source {
    static constexpr int kPairsPerLine = 2;
    const uint32_t* codes;
    Int8Source(const SyWeight& w, int64_t tile) : codes(tile16(w, tile)) {}
    void ask_for(int line) const { __builtin_prefetch(codes + line * kLanes, 0, 3); }
    void begin_line(int) {}
    P16 load_line(int line) const { return load_pairs(codes + line * kLanes); }
    template <int kPair>
    P16 pair(P16 line) const {
        return round_pairs(signed_byte<2 * kPair>(line), signed_byte<2 * kPair + 1>(line));
    }
};

// Pairs [first_pair, end_pair) of a tile16 as bf16 pairs [..][16]. The first pair begins a block.
template <typename Source>
static void unpack_tile(const SyWeight& w, int64_t tile, int first_pair, int end_pair, uint32_t* out) {
    Source source(w, tile);
    const int first_line = first_pair / Source::kPairsPerLine;
    const int end_line = end_pair / Source::kPairsPerLine;
    for (int line = first_line; line < end_line; ++line) {
        source.begin_line(line);
        const P16 codes = source.load_line(line);
        uint32_t* to = out + (line - first_line) * Source::kPairsPerLine * kLanes;
        store_pairs(to, source.template pair<0>(codes));
        store_pairs(to + kLanes, source.template pair<1>(codes));
        if constexpr (Source::kPairsPerLine == 4) {
            store_pairs(to + 2 * kLanes, source.template pair<2>(codes));
            store_pairs(to + 3 * kLanes, source.template pair<3>(codes));
        }
    }
}

// A whole tile16 of NF4; where the pair of output `lane` at (2 * pair, 2 * pair + 1) then lies.
static inline void unpack_nf4(const SyWeight& w, int64_t tile, uint32_t* out) {
#if defined(SY_QUADS)
    unpack_quads(w, tile, out);
#else
    unpack_tile<Nf4Source>(w, tile, 0, w.k / 2, out);
#endif
}
static inline int64_t unpacked_dword(int lane, int64_t pair) {
#if defined(SY_QUADS)
    return pair / kStepPairs * kUnpackedStep + lane % kQuads * kLanes + lane / kQuads * kStepPairs + pair % kStepPairs;
#else
    return pair * kLanes + lane;
#endif
}

template <int kPair, typename Source, int MR>
static inline void fused_pair(const Source (&sources)[2], const P16 (&codes)[2], const uint32_t* x,
                              int64_t x_stride, F16 (&acc)[2][MR], uint32_t* unpacked) {
    P16 weights[2];
    SY_UNROLL for (int v = 0; v < 2; ++v) weights[v] = sources[v].template pair<kPair>(codes[v]);
    if (unpacked != nullptr) {
        SY_UNROLL for (int v = 0; v < 2; ++v) {
            store_pairs(unpacked + (static_cast<int64_t>(v) * kCutPairs + kPair) * kLanes, weights[v]);
        }
    }
    SY_UNROLL for (int m = 0; m < MR; ++m) {
        const P16 pair = broadcast_pair(x[m * x_stride + kPair]);
        SY_UNROLL for (int v = 0; v < 2; ++v) acc[v][m] = dot(acc[v][m], weights[v], pair);
    }
}

// The same sums as tile_rows, in the same order, over pairs [first_pair, end_pair) of two tile16, the
// weights going from registers into the dot products: lookups and products use different units of the
// core. With `unpacked`, the weights are kept there for the other blocks of rows.
template <typename Source, int MR>
static void fused_rows(const SyWeight& w, int64_t tile, int first_pair, int end_pair, const uint32_t* x,
                       int64_t x_stride, float* out, int64_t out_stride, uint32_t* unpacked,
                       Prefetch& prefetch) {
    Source sources[2] = {Source(w, tile), Source(w, tile + 1)};
    F16 acc[2][MR];
    SY_UNROLL for (int m = 0; m < MR; ++m) {
        SY_UNROLL for (int v = 0; v < 2; ++v) {
            acc[v][m] = first_pair > 0 ? load(out + m * out_stride + v * kLanes) : zero();
        }
    }
    const int first_line = first_pair / Source::kPairsPerLine;
    const int end_line = end_pair / Source::kPairsPerLine;
    const int tile_lines = w.k / 2 / Source::kPairsPerLine;
    const int lines_ahead = tile_lines < kCodeLinesAhead ? tile_lines : kCodeLinesAhead;
    for (int line = first_line; line < end_line; ++line) {
        P16 codes[2];
        SY_UNROLL for (int v = 0; v < 2; ++v) {
            sources[v].begin_line(line);
            codes[v] = sources[v].load_line(line);
            if constexpr (MR <= kFewRows) {
                // Past this tile's end its stream goes on behind the other tile of the pair.
                const int ahead = line + lines_ahead;
                sources[v].ask_for(ahead < tile_lines ? ahead : ahead + tile_lines);
            }
        }
        SY_UNROLL for (int i = 0; i < kTouchesPerLine; ++i) prefetch.touch();
        const uint32_t* xs = x + line * Source::kPairsPerLine;
        fused_pair<0>(sources, codes, xs, x_stride, acc, unpacked);
        fused_pair<1>(sources, codes, xs, x_stride, acc, unpacked);
        if constexpr (Source::kPairsPerLine == 4) {
            fused_pair<2>(sources, codes, xs, x_stride, acc, unpacked);
            fused_pair<3>(sources, codes, xs, x_stride, acc, unpacked);
        }
        if (unpacked != nullptr) unpacked += Source::kPairsPerLine * kLanes;
    }
    SY_UNROLL for (int m = 0; m < MR; ++m) {
        SY_UNROLL for (int v = 0; v < 2; ++v) store(out + m * out_stride + v * kLanes, acc[v][m]);
    }
}

using FusedFunction = void (*)(const SyWeight&, int64_t, int, int, const uint32_t*, int64_t, float*, int64_t,
                               uint32_t*, Prefetch&);

template <typename Source>
static FusedFunction fused_function(int rows) {
    static constexpr FusedFunction table[kMaxTileRows] = {
        fused_rows<Source, 1>, fused_rows<Source, 2>,  fused_rows<Source, 3>,  fused_rows<Source, 4>,
        fused_rows<Source, 5>, fused_rows<Source, 6>,  fused_rows<Source, 7>,  fused_rows<Source, 8>,
        fused_rows<Source, 9>, fused_rows<Source, 10>, fused_rows<Source, 11>, fused_rows<Source, 12>,
    };
    return table[rows - 1];
}

// Two tile16 (or the last one alone) for all rows: the first block of rows unpacks as it computes and,
// when there are more rows, leaves the weights in `scratch` for them.
template <typename Source>
static void coded_tile(const SyWeight& w, int tile, int num_vectors, const uint32_t* x, int64_t x_stride,
                       int num_rows, float* out, int64_t out_stride, uint32_t* scratch,
                       Prefetch& prefetch) {
    constexpr int64_t kStride = static_cast<int64_t>(kCutPairs) * kLanes;
    const int num_blocks = (num_rows + kMaxTileRows - 1) / kMaxTileRows;
    const int fused = num_vectors == 2 ? num_rows / num_blocks : 0;
    for (int pair = 0; pair < w.k / 2; pair += kCutPairs) {
        const int end = w.k / 2 - pair < kCutPairs ? w.k / 2 : pair + kCutPairs;
        if (fused == 0) {
            unpack_tile<Source>(w, tile, pair, end, scratch);
        } else {
            uint32_t* unpacked = num_rows > fused ? scratch : nullptr;
            fused_function<Source>(fused)(w, tile, pair, end, x, x_stride, out, out_stride, unpacked, prefetch);
        }
        if (num_rows == fused) continue;
        tile_all_rows(num_vectors, {scratch, kStride}, x + fused * x_stride + pair, x_stride, num_rows - fused,
                      end - pair, out + fused * out_stride, out_stride, pair > 0, prefetch);
    }
}

// Bytes of thread scratch that linear_tile needs.
constexpr size_t kLinearScratchBytes = 2 * kCutPairs * kLanes * sizeof(uint32_t);

#if defined(SY_AMX)
// k in whole tiles of inputs. A matrix goes one way for every number of rows.
static inline bool suits_tiles(const SyWeight& w) { return w.k % (2 * kTilePairs) == 0; }

static inline void amx_tile(const SyWeight& w, int64_t tile, int num_vectors, const uint32_t* x, int64_t x_stride,
                            int num_rows, float* out, int64_t out_stride, uint32_t* scratch, Prefetch& prefetch) {
    const auto weights = [&](int v, int pair, uint32_t* room, bool is_first) -> const uint32_t* {
        if (w.kind == SY_BF16) return tile16(w, tile + v) + static_cast<int64_t>(pair) * kLanes;
        if (!is_first) return room;
        if (w.kind == SY_NF4) {
            // A whole block at its first half: both share its scales.
            if (2 * pair % kBlock == 0) unpack_tile<Nf4Source>(w, tile + v, pair, pair + kBlock / 2, room);
        } else {
            unpack_tile<Int8Source>(w, tile + v, pair, pair + kTilePairs, room);
        }
        return room;
    };
    amx_product(num_vectors, w.k, x, x_stride, num_rows, out, out_stride, scratch, prefetch, weights);
}
#endif

// Sums of one or two tile16 for all rows, before any scale of the outputs.
static inline void tile_sums(const SyWeight& w, int tile, int num_vectors, const uint32_t* x, int64_t x_stride,
                             int num_rows, float* out, int64_t out_stride, uint32_t* scratch, Prefetch& prefetch) {
#if defined(SY_AMX)
    if (suits_tiles(w)) {
        amx_tile(w, tile, num_vectors, x, x_stride, num_rows, out, out_stride, scratch, prefetch);
        return;
    }
#endif
    if (w.kind == SY_NF4) {
#if defined(SY_QUADS)
        quad_tiles(w, tile, num_vectors, x, x_stride, num_rows, out, out_stride, scratch, prefetch);
#else
        coded_tile<Nf4Source>(w, tile, num_vectors, x, x_stride, num_rows, out, out_stride, scratch, prefetch);
#endif
    } else if (w.kind == SY_INT8) {
        coded_tile<Int8Source>(w, tile, num_vectors, x, x_stride, num_rows, out, out_stride, scratch, prefetch);
    } else {
        const int64_t stride = tile_dwords(w);
        for (int pair = 0; pair < w.k / 2; pair += kCutPairs) {
            const int count = w.k / 2 - pair < kCutPairs ? w.k / 2 - pair : kCutPairs;
            tile_all_rows(num_vectors, {tile16(w, tile) + static_cast<int64_t>(pair) * kLanes, stride}, x + pair,
                          x_stride, num_rows, count, out, out_stride, pair > 0, prefetch);
        }
    }
}

// Outputs 32 * tile32 .. + 31 of x . w^T for all rows, fp32, to columns 0 .. 31 of `out`. Writes whole
// vectors: 16 columns when only one tile16 is left.
static inline void linear_tile(const SyWeight& w, int tile32, const uint16_t* x, int64_t x_stride,
                               int num_rows, float* out, int64_t out_stride, uint8_t* scratch,
                               Prefetch& prefetch) {
    const int tile = 2 * tile32;
    const int num_vectors = num_tiles16(w) - tile >= 2 ? 2 : 1;
    tile_sums(w, tile, num_vectors, reinterpret_cast<const uint32_t*>(x), x_stride / 2, num_rows, out, out_stride,
              reinterpret_cast<uint32_t*>(scratch), prefetch);
    if (w.kind != SY_INT8) return;
    for (int v = 0; v < num_vectors; ++v) {
        const int column = (tile + v) * kLanes;
        const F16 scale = load_n(w.scales + column, w.n - column < 16 ? w.n - column : 16);
        for (int m = 0; m < num_rows; ++m) {
            float* p = out + m * out_stride + v * kLanes;
            store(p, mul(load(p), scale));
        }
    }
}

// One row of the matrix (an embedding), fp32.
static inline void weight_row(const SyWeight& w, int64_t row, float* out) {
    const int64_t tile = row / kLanes;
    const int lane = static_cast<int>(row % kLanes);
    if (w.kind == SY_ROWS_BF16) {
        const uint16_t* from = static_cast<const uint16_t*>(w.data) + row * w.k;
        for (int k = 0; k < w.k; ++k) out[k] = bf16_to_float(from[k]);
        return;
    }
    const uint32_t* words = tile16(w, tile);
    for (int k = 0; k < w.k; ++k) {
        const int column = 2 * (lane % 8) + k % 2;
        if (w.kind == SY_BF16) {
            const uint32_t pair = words[static_cast<int64_t>(k / 2) * kLanes + lane];
            out[k] = bf16_to_float(static_cast<uint16_t>(k % 2 ? pair >> 16 : pair));
        } else if (w.kind == SY_INT8) {
            const int byte = 2 * (k % 4 / 2) + lane / 8;
            const uint32_t word = words[static_cast<int64_t>(k / 4) * kLanes + column];
            out[k] = static_cast<float>(static_cast<int8_t>(word >> (8 * byte))) * w.scales[row];
        } else if (w.kind == SY_INT8_BYTES) {
            const uint32_t word = words[static_cast<int64_t>(k / 4) * kLanes + lane];
            const int byte = static_cast<int>((word >> (8 * (k % 4))) & 255u);
            out[k] = static_cast<float>(byte - kByteOffset) * w.scales[row];
        } else {
            const CodePlace place(lane, k, w.kind == SY_NF4_BYTES);
            const float scale = w.scales[tile * (w.k / 4) + k / kBlock * kLanes + lane];
            out[k] = bf16_to_float(float_to_bf16(w.code[(words[place.dword] >> place.shift) & 15u] * scale));
        }
    }
}
