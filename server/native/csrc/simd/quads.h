// NF4 tiles on AVX-512. The sixteen products code * absmax of one output and block make a table; the
// tables of four outputs fill two registers, and one vpermi2w turns 32 codes into bf16 weights. Half
// the work of looking codes up and scaling and rounding each: at few rows that is what a product costs.
// nf4_layout.h says where the codes lie.
//
// A vector of weights so holds eight k of four outputs, and an accumulator four sums per output: of the
// pairs (k, k + 1) with k / 2 = 0, 1, 2, 3 mod 4. They are added at the end, always in the same order.
#pragma once

#include "abi.h"
#include "weights/nf4_layout.h"
#include "simd/tile.h"

constexpr int kQuads = 4;           // of a tile16
constexpr int kStepPairs = 4;       // pairs of one vector of weights
constexpr int kBlockSteps = kBlock / (2 * kStepPairs);
constexpr int kQuadBlockDwords = 2 * kQuads * kLanes;
constexpr int64_t kUnpackedStep = kQuads * kLanes;  // dwords of 16 outputs x 8 k
// Up to here all four quads' tables fit in registers beside the sums; more rows take two quads at a time.
constexpr int kFewQuadRows = 3;

// bf16 products of one block for outputs q, q + 4 (first) and q + 8, q + 12 (second).
struct QuadTables {
    P16 first, second;
    QuadTables() = default;
    QuadTables(F16 code, const float* absmax)
        : first(round_pairs(mul(code, set1(absmax[0])), mul(code, set1(absmax[4])))),
          second(round_pairs(mul(code, set1(absmax[8])), mul(code, set1(absmax[12])))) {}
    // The weights of nibble i of every word.
    template <int kNibble>
    P16 lookup(P16 codes) const {
        const P16 which = _mm512_set_epi64(0x0030003000300030, 0x0030003000300030, 0x0020002000200020,
                                           0x0020002000200020, 0x0010001000100010, 0x0010001000100010, 0, 0);
        const P16 shifted = kNibble == 0 ? codes : _mm512_srli_epi16(codes, 4 * kNibble);
        // (shifted & 15) | which
        const P16 index = _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi16(15), which, 0xEA);
        return _mm512_permutex2var_epi16(first, index, second);
    }
};

// Eight inputs, for each of the four outputs.
static inline P16 broadcast_step(const uint32_t* x) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}

// An output's four sums are added as (0 + 2) + (1 + 3). Lane 4 * o + q of the result from lanes
// 4 * o .. 4 * o + 3 of quad q.
static inline void store_sums(const F16 (&acc)[kQuads], int, float* out, bool resume) {
    const F16 a = _mm512_unpacklo_ps(acc[0], acc[1]), b = _mm512_unpackhi_ps(acc[0], acc[1]);
    const F16 c = _mm512_unpacklo_ps(acc[2], acc[3]), d = _mm512_unpackhi_ps(acc[2], acc[3]);
    const F16 even = add(a, b), odd = add(c, d);  // (0 + 2), (1 + 3) of quads 0, 1 and of 2, 3
    const F16 sums = add((F16)_mm512_unpacklo_pd((__m512d)even, (__m512d)odd),
                         (F16)_mm512_unpackhi_pd((__m512d)even, (__m512d)odd));
    store(out, resume ? add(load(out), sums) : sums);
}
// The same for quads 2 * pair and 2 * pair + 1 alone.
static inline void store_sums(const F16 (&acc)[2], int pair, float* out, bool resume) {
    const F16 halves = add(_mm512_unpacklo_ps(acc[0], acc[1]), _mm512_unpackhi_ps(acc[0], acc[1]));
    F16 sums = add(halves, _mm512_shuffle_ps(halves, halves, 0x4E));
    if (resume) sums = add(load(out), sums);
    _mm512_mask_storeu_ps(out, pair == 0 ? 0x3333 : 0xCCCC, sums);
}

struct QuadTile {
    const uint32_t* codes;
    const float* absmax;
    F16 code;
    QuadTile(const SyWeight& w, int64_t tile)
        : codes(static_cast<const uint32_t*>(w.data) + tile * w.k * 2),
          absmax(w.scales + tile * (w.k / 4)),
          code(load(w.code)) {}
    QuadTables tables(int block, int quad) const { return {code, absmax + block * kLanes + quad}; }
    P16 line(int block, int quad, int half) const {
        return load_pairs(codes + (static_cast<int64_t>(block) * 2 * kQuads + 2 * quad + half) * kLanes);
    }
    // A thread takes runs of tiles, which lie one behind the other.
    void ask_ahead(int block) const {
        constexpr int kBlocksAhead = 8;
        const uint32_t* ahead = codes + static_cast<int64_t>(block + kBlocksAhead) * kQuadBlockDwords;
        SY_UNROLL for (int i = 0; i < 2 * kQuads; ++i) __builtin_prefetch(ahead + i * kLanes, 0, 3);
        __builtin_prefetch(absmax + (block + kBlocksAhead) * kLanes, 0, 3);
    }
};

// Blocks [first, end) of quads quad .. quad + kCount - 1 of a tile16, the weights of each eight k given
// to use(step, weights).
template <int kCount, typename Use>
static inline void each_step(const QuadTile& tile, int block, int quad, Use&& use) {
    QuadTables tables[kCount];
    SY_UNROLL for (int q = 0; q < kCount; ++q) tables[q] = tile.tables(block, quad + q);
    SY_UNROLL for (int half = 0; half < 2; ++half) {
        P16 codes[kCount], weights[kCount];
        SY_UNROLL for (int q = 0; q < kCount; ++q) codes[q] = tile.line(block, quad + q, half);
        SY_UNROLL for (int q = 0; q < kCount; ++q) weights[q] = tables[q].template lookup<0>(codes[q]);
        use(4 * half, weights);
        SY_UNROLL for (int q = 0; q < kCount; ++q) weights[q] = tables[q].template lookup<1>(codes[q]);
        use(4 * half + 1, weights);
        SY_UNROLL for (int q = 0; q < kCount; ++q) weights[q] = tables[q].template lookup<2>(codes[q]);
        use(4 * half + 2, weights);
        SY_UNROLL for (int q = 0; q < kCount; ++q) weights[q] = tables[q].template lookup<3>(codes[q]);
        use(4 * half + 3, weights);
    }
}

// x . w^T of kCount quads over blocks [first, end), straight from the codes; `unpacked`, when kKeep,
// keeps the weights for the other rows as [step][kCount][16]. Added to `out` when `resume`.
template <int MR, int kCount, bool kKeep>
static void coded_rows(const SyWeight& w, int64_t tile, int quad, int first, int end, const uint32_t* x,
                       int64_t x_stride, float* out, int64_t out_stride, bool resume, uint32_t* unpacked,
                       Prefetch& prefetch) {
    const QuadTile source(w, tile);
    F16 acc[MR][kCount];
    SY_UNROLL for (int m = 0; m < MR; ++m) {
        SY_UNROLL for (int q = 0; q < kCount; ++q) acc[m][q] = zero();
    }
    Prefetch lines = prefetch;
    for (int block = first; block < end; ++block) {
        const uint32_t* xs = x + static_cast<int64_t>(block) * (kBlock / 2);
        uint32_t* to = kKeep ? unpacked + (block - first) * kBlockSteps * kCount * kLanes : nullptr;
        if constexpr (kCount == kQuads) source.ask_ahead(block);
        each_step<kCount>(source, block, quad, [&](int step, const P16 (&weights)[kCount]) {
            if constexpr (kKeep) {
                SY_UNROLL for (int q = 0; q < kCount; ++q) {
                    store_pairs(to + (step * kCount + q) * kLanes, weights[q]);
                }
            }
            SY_UNROLL for (int m = 0; m < MR; ++m) {
                const P16 eight = broadcast_step(xs + m * x_stride + step * kStepPairs);
                SY_UNROLL for (int q = 0; q < kCount; ++q) acc[m][q] = dot(acc[m][q], weights[q], eight);
            }
            lines.touch();
        });
    }
    prefetch = lines;
    SY_UNROLL for (int m = 0; m < MR; ++m) store_sums(acc[m], quad / 2, out + m * out_stride, resume);
}

// Two quads from unpacked weights: the same sums in the same order.
template <int MR>
static void unpacked_rows(const uint32_t* weights, int quad, const uint32_t* x, int64_t x_stride, int num_steps,
                          float* out, int64_t out_stride, bool resume, Prefetch& prefetch) {
    F16 acc[MR][2];
    SY_UNROLL for (int m = 0; m < MR; ++m) acc[m][0] = acc[m][1] = zero();
    const auto step = [&](int s) {
        const P16 first = load_pairs(weights + s * 2 * kLanes), second = load_pairs(weights + (2 * s + 1) * kLanes);
        SY_UNROLL for (int m = 0; m < MR; ++m) {
            const P16 eight = broadcast_step(x + m * x_stride + s * kStepPairs);
            acc[m][0] = dot(acc[m][0], first, eight);
            acc[m][1] = dot(acc[m][1], second, eight);
        }
    };
    Prefetch lines = prefetch;
    int s = 0;
    for (int run = lines.run_length(num_steps); run > 0; run = lines.run_length(num_steps - s)) {
        for (const int end = s + run; s < end; ++s) {
            lines.touch_now();
            step(s);
        }
        if (s == num_steps) break;
    }
    for (; s < num_steps; ++s) step(s);
    prefetch = lines;
    SY_UNROLL for (int m = 0; m < MR; ++m) store_sums(acc[m], quad / 2, out + m * out_stride, resume);
}

using CodedRows = void (*)(const SyWeight&, int64_t, int, int, int, const uint32_t*, int64_t, float*, int64_t,
                           bool, uint32_t*, Prefetch&);
using UnpackedRows = void (*)(const uint32_t*, int, const uint32_t*, int64_t, int, float*, int64_t, bool, Prefetch&);

template <int kCount, bool kKeep>
static CodedRows coded_rows_function(int rows) {
    static constexpr CodedRows table[kMaxTileRows] = {
        coded_rows<1, kCount, kKeep>, coded_rows<2, kCount, kKeep>,  coded_rows<3, kCount, kKeep>,
        coded_rows<4, kCount, kKeep>, coded_rows<5, kCount, kKeep>,  coded_rows<6, kCount, kKeep>,
        coded_rows<7, kCount, kKeep>, coded_rows<8, kCount, kKeep>,  coded_rows<9, kCount, kKeep>,
        coded_rows<10, kCount, kKeep>, coded_rows<11, kCount, kKeep>, coded_rows<12, kCount, kKeep>,
    };
    return table[rows - 1];
}
static inline CodedRows few_rows_function(int rows) {
    static constexpr CodedRows table[kFewQuadRows] = {
        coded_rows<1, kQuads, false>, coded_rows<2, kQuads, false>, coded_rows<3, kQuads, false>};
    return table[rows - 1];
}
static inline UnpackedRows unpacked_rows_function(int rows) {
    static constexpr UnpackedRows table[kMaxTileRows] = {
        unpacked_rows<1>, unpacked_rows<2>, unpacked_rows<3>,  unpacked_rows<4>,
        unpacked_rows<5>, unpacked_rows<6>, unpacked_rows<7>,  unpacked_rows<8>,
        unpacked_rows<9>, unpacked_rows<10>, unpacked_rows<11>, unpacked_rows<12>,
    };
    return table[rows - 1];
}

// Blocks [first, end) of two quads for all rows, in even parts: the first unpacks as it computes.
static inline void quad_pair(const SyWeight& w, int64_t tile, int quad, int first, int end, const uint32_t* x,
                             int64_t x_stride, int num_rows, float* out, int64_t out_stride, uint32_t* scratch,
                             Prefetch& prefetch) {
    const int num_parts = (num_rows + kMaxTileRows - 1) / kMaxTileRows;
    const bool resume = first > 0;
    int done = num_rows / num_parts;
    const CodedRows run = num_parts > 1 ? coded_rows_function<2, true>(done) : coded_rows_function<2, false>(done);
    run(w, tile, quad, first, end, x, x_stride, out, out_stride, resume, scratch, prefetch);
    for (int part = 1; part < num_parts; ++part) {
        const int rows = (num_rows - done) / (num_parts - part);
        unpacked_rows_function(rows)(scratch, quad, x + done * x_stride + first * (kBlock / 2), x_stride,
                                     (end - first) * kBlockSteps, out + done * out_stride, out_stride, resume,
                                     prefetch);
        done += rows;
    }
}

// Tile16s tile .. tile + num_tiles - 1 for all rows.
static inline void quad_tiles(const SyWeight& w, int64_t tile, int num_tiles, const uint32_t* x,
                              int64_t x_stride, int num_rows, float* out, int64_t out_stride,
                              uint32_t* scratch, Prefetch& prefetch) {
    constexpr int kCutBlocks = 2 * kCutPairs / kBlock;
    for (int t = 0; t < num_tiles; ++t, out += kLanes) {
        for (int block = 0; block < w.k / kBlock; block += kCutBlocks) {
            const int end = w.k / kBlock - block < kCutBlocks ? w.k / kBlock : block + kCutBlocks;
            if (num_rows <= kFewQuadRows) {
                few_rows_function(num_rows)(w, tile + t, 0, block, end, x, x_stride, out, out_stride, block > 0,
                                            nullptr, prefetch);
                continue;
            }
            for (int quad = 0; quad < kQuads; quad += 2) {
                quad_pair(w, tile + t, quad, block, end, x, x_stride, num_rows, out, out_stride, scratch, prefetch);
            }
        }
    }
}

// A whole tile16 as bf16 pairs [step][quad][16].
static inline void unpack_quads(const SyWeight& w, int64_t tile, uint32_t* out) {
    const QuadTile source(w, tile);
    for (int block = 0; block < w.k / kBlock; ++block) {
        each_step<kQuads>(source, block, 0, [&](int step, const P16 (&weights)[kQuads]) {
            for (int q = 0; q < kQuads; ++q) {
                store_pairs(out + ((block * kBlockSteps + step) * kQuads + q) * kLanes, weights[q]);
            }
        });
    }
}
