#include "weights/byte_tiles.h"

#if defined(SY_AVX512)
namespace {

constexpr int kMaxByteRows = 11;  // 2 x 11 sums, 4 weights, 4 inputs, the table and a mask fit in 32 registers
constexpr int kBlockPairs = kBlock / 8;
// Up to this many rows a product is bound by memory. One tile after the other is then one stream, read
// half as fast again as two side by side.
constexpr int kFewByteRows = 4;
constexpr int kPairsAhead = 64;

// Not the intrinsic: around it GCC 12 copies sums between registers until they no longer fit.
inline void add_dot(__m512i& sum, P16 weights, __m512i activations) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(activations));
}

// A tile16 in pairs of vectors, each of 16 outputs by 4 inputs, from its codes.
struct CodedBytes {
    const uint32_t* codes;
    const float* absmax;
    P16 table;  // the bytes of all codes, in every quarter
    F16 code_step;
    CodedBytes(const SyWeight& w, int64_t tile)
        : codes(static_cast<const uint32_t*>(w.data) + tile * w.k * 2),
          absmax(w.scales + tile * (w.k / 4)),
          code_step(set1(w.code_step)) {
        const __m512i levels = _mm512_cvtps_epi32(divide(load(w.code), code_step));
        const __m512i bytes = _mm512_add_epi32(levels, _mm512_set1_epi32(kByteOffset));
        table = _mm512_broadcast_i32x4(_mm512_cvtepi32_epi8(bytes));
    }
    static int num_pairs(const SyWeight& w) { return w.k / 8; }
    void pair(int index, P16& first, P16& second) const {
        const P16 line = load_pairs(codes + static_cast<int64_t>(index) * kLanes);
        const P16 mask = _mm512_set1_epi8(15);
        first = _mm512_shuffle_epi8(table, _mm512_and_si512(line, mask));
        second = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(line, 4), mask));
    }
    F16 step(int block) const { return mul(code_step, load(absmax + block * kLanes)); }
    void ask_for(int index) const {
        __builtin_prefetch(codes + static_cast<int64_t>(index) * kLanes, 0, 3);
        if (index % kBlockPairs == 0) __builtin_prefetch(absmax + index / kBlockPairs * kLanes, 0, 3);
    }
};

// The same from bytes.
struct PlainBytes {
    const uint32_t* words;
    F16 steps;
    PlainBytes(const SyWeight& w, int64_t tile)
        : words(static_cast<const uint32_t*>(w.data) + tile * num_pairs(w) * 2 * kLanes),
          steps(load(w.scales + tile * kLanes)) {}
    static int num_pairs(const SyWeight& w) { return (w.k + 7) / 8; }
    void pair(int index, P16& first, P16& second) const {
        first = load_pairs(words + static_cast<int64_t>(2 * index) * kLanes);
        second = load_pairs(words + static_cast<int64_t>(2 * index + 1) * kLanes);
    }
    F16 step(int) const { return steps; }
    void ask_for(int index) const {
        __builtin_prefetch(words + static_cast<int64_t>(2 * index) * kLanes, 0, 3);
        __builtin_prefetch(words + static_cast<int64_t>(2 * index + 1) * kLanes, 0, 3);
    }
};

// MR rows by NV tile16s, to `out`.
template <typename Source, int NV, int MR>
void byte_products(const SyWeight& w, int64_t tile, const ByteRows& x, float* out, int64_t out_stride,
                          Prefetch& prefetch) {
    constexpr int kTouches = 1 + MR / 2;
    const Source sources[2] = {Source(w, tile), Source(w, tile + NV - 1)};
    const int num_pairs = Source::num_pairs(w);
    const int64_t x_stride = x.stride / 4;
    Prefetch lines = prefetch;
    for (int block = 0; block < x.num_blocks; ++block) {
        __m512i sums[NV][MR];
        SY_UNROLL for (int m = 0; m < MR; ++m) {
            const __m512i start = _mm512_set1_epi32(x.starts[m * x.num_blocks + block]);
            SY_UNROLL for (int v = 0; v < NV; ++v) sums[v][m] = start;
        }
        int pair = block * kBlockPairs;
        const int end = num_pairs - pair < kBlockPairs ? num_pairs : pair + kBlockPairs;
        for (int half = (pair + end) / 2; pair < end; half = end) {
            // Outside the inner loop: a branch in there makes the compiler move sums about.
            for (int t = 0; t < kTouches; ++t) lines.touch();
            for (; pair < half; ++pair) {
                P16 first[NV], second[NV];
                SY_UNROLL for (int v = 0; v < NV; ++v) {
                    sources[v].pair(pair, first[v], second[v]);
                    if constexpr (MR <= kFewByteRows) sources[v].ask_for(pair + kPairsAhead);
                }
                const int32_t* xs = x.quads() + 2 * pair;
                SY_UNROLL for (int m = 0; m < MR; ++m) {
                    const __m512i quad = _mm512_set1_epi32(xs[m * x_stride]);
                    SY_UNROLL for (int v = 0; v < NV; ++v) add_dot(sums[v][m], first[v], quad);
                }
                SY_UNROLL for (int m = 0; m < MR; ++m) {
                    const __m512i quad = _mm512_set1_epi32(xs[m * x_stride + 1]);
                    SY_UNROLL for (int v = 0; v < NV; ++v) add_dot(sums[v][m], second[v], quad);
                }
            }
        }
        F16 weight_steps[NV];
        SY_UNROLL for (int v = 0; v < NV; ++v) weight_steps[v] = sources[v].step(block);
        SY_UNROLL for (int m = 0; m < MR; ++m) {
            const F16 step = set1(x.steps[m * x.num_blocks + block]);
            SY_UNROLL for (int v = 0; v < NV; ++v) {
                float* to = out + m * out_stride + v * kLanes;
                const F16 before = block == 0 ? zero() : load(to);
                store(to, fma(_mm512_cvtepi32_ps(sums[v][m]), mul(weight_steps[v], step), before));
            }
        }
    }
    prefetch = lines;
}

using ByteProducts = void (*)(const SyWeight&, int64_t, const ByteRows&, float*, int64_t, Prefetch&);

template <typename Source>
ByteProducts one_tile_function(int rows) {
    static constexpr ByteProducts table[kMaxByteRows] = {
        byte_products<Source, 1, 1>, byte_products<Source, 1, 2>,  byte_products<Source, 1, 3>,
        byte_products<Source, 1, 4>, byte_products<Source, 1, 5>,  byte_products<Source, 1, 6>,
        byte_products<Source, 1, 7>, byte_products<Source, 1, 8>,  byte_products<Source, 1, 9>,
        byte_products<Source, 1, 10>, byte_products<Source, 1, 11>,
    };
    return table[rows - 1];
}
template <typename Source>
ByteProducts two_tiles_function(int rows) {
    static constexpr ByteProducts table[kMaxByteRows - kFewByteRows] = {
        byte_products<Source, 2, 5>, byte_products<Source, 2, 6>,  byte_products<Source, 2, 7>,
        byte_products<Source, 2, 8>, byte_products<Source, 2, 9>, byte_products<Source, 2, 10>,
        byte_products<Source, 2, 11>,
    };
    return table[rows - 1 - kFewByteRows];
}

// One or two tile16s for all rows, in even parts. Every part looks its codes up anew: that is as fast
// as keeping their bytes.
template <typename Source>
void byte_tiles(const SyWeight& w, int64_t tile, int num_tiles, const ByteRows& x, int num_rows, float* out,
                int64_t out_stride, Prefetch& prefetch) {
    if (num_rows <= kFewByteRows) {
        for (int t = 0; t < num_tiles; ++t) {
            one_tile_function<Source>(num_rows)(w, tile + t, x, out + t * kLanes, out_stride, prefetch);
        }
        return;
    }
    const int num_parts = (num_rows + kMaxByteRows - 1) / kMaxByteRows;
    for (int part = 0, done = 0; part < num_parts; ++part) {
        const int rows = (num_rows - done) / (num_parts - part);  // 5 at least
        const ByteProducts run = num_tiles == 2 ? two_tiles_function<Source>(rows) : one_tile_function<Source>(rows);
        run(w, tile, x.from_row(done), out + done * out_stride, out_stride, prefetch);
        done += rows;
    }
}

}  // namespace

void byte_linear_tile(const SyWeight& w, int tile32, const ByteRows& x, int num_rows, float* out, int64_t out_stride,
                      Prefetch& prefetch) {
    const int64_t tile = 2 * static_cast<int64_t>(tile32);
    const int num_tiles = (w.n + kLanes - 1) / kLanes - tile >= 2 ? 2 : 1;
    if (w.kind == SY_NF4_BYTES) {
        byte_tiles<CodedBytes>(w, tile, num_tiles, x, num_rows, out, out_stride, prefetch);
    } else {
        byte_tiles<PlainBytes>(w, tile, num_tiles, x, num_rows, out, out_stride, prefetch);
    }
}
#else
// Packing refuses byte weights here.
void byte_linear_tile(const SyWeight&, int, const ByteRows&, int, float*, int64_t, Prefetch&) {}
#endif
