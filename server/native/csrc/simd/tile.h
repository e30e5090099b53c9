// The one inner product kernel: NV x 16 outputs by MR rows, k in bf16 pairs, one fp32 accumulator
// chain per output in ascending k. Projections, q.k and p.v all end here, so a row's bits are the
// same whatever the number of rows beside it.
#pragma once

#include "simd/simd.h"

constexpr int kMaxTileRows = 12;  // 2 x 12 accumulators, 2 weights and a broadcast fit in 32 registers
constexpr int kTileColumns = 2 * kLanes;
// k is cut at this many pairs, so that an unpacked tile (128 KiB) stays in the second-level cache.
constexpr int kCutPairs = 1024;

// Weights of 16 outputs: [pairs][16] dwords. The second vector of outputs is `tile_stride` dwords on.
struct TileWeights {
    const uint32_t* data;
    int64_t tile_stride;
};

// Memory to bring near while computing: `count` cache lines, `stride` bytes apart. Two are asked for
// per k step, so that what later items read (adapter pages, the next tile's codes) comes in behind
// this item's arithmetic.
struct LineRange {
    const char* data;
    int64_t stride;
    int64_t count;
};
inline LineRange line_range(const void* data, int64_t bytes) {
    return {static_cast<const char*>(data), 64, (bytes + 63) / 64};
}

struct Prefetch {
    const LineRange* ranges = nullptr;
    int num_ranges = 0;
    const char* next = nullptr;
    int64_t stride = 0;
    int64_t left = 0;  // touches left in the current range

    // How many of the next `steps` touches stay in one range; 0 when nothing is left.
    int run_length(int steps) {
        if (left == 0) {
            if (num_ranges == 0) return 0;
            next = ranges->data;
            stride = ranges->stride;
            left = (ranges->count + 1) / 2;
            ++ranges;
            --num_ranges;
        }
        const int run = left < steps ? static_cast<int>(left) : steps;
        left -= run;
        return run;
    }
    // As often as run_length() said.
    void touch_now() {
        __builtin_prefetch(next, 0, 2);
        __builtin_prefetch(next + stride, 0, 2);
        next += 2 * stride;
    }
    void touch() {
        if (run_length(1) > 0) touch_now();
    }
};

// out[m][v * 16 + lane] = sum over pairs of w . x[m]; x rows are `x_stride` dwords apart. With `resume`
// the sums go on from what `out` holds: a long k may be cut anywhere without changing a bit.
template <int NV, int MR>
static void tile_rows(TileWeights w, const uint32_t* x, int64_t x_stride, int num_pairs, float* out,
                      int64_t out_stride, bool resume, Prefetch& prefetch) {
    F16 acc[NV][MR];
    SY_UNROLL for (int m = 0; m < MR; ++m) {
        SY_UNROLL for (int v = 0; v < NV; ++v) {
            acc[v][m] = resume ? load(out + m * out_stride + v * kLanes) : zero();
        }
    }
    const auto step = [&](int p) {
        P16 weights[NV];
        SY_UNROLL for (int v = 0; v < NV; ++v) weights[v] =
            load_pairs(w.data + v * w.tile_stride + p * kLanes);
        SY_UNROLL for (int m = 0; m < MR; ++m) {
            const P16 pair = broadcast_pair(x[m * x_stride + p]);
            SY_UNROLL for (int v = 0; v < NV; ++v) acc[v][m] = dot(acc[v][m], weights[v], pair);
        }
    };
    Prefetch lines = prefetch;
    int p = 0;
    for (int run = lines.run_length(num_pairs); run > 0; run = lines.run_length(num_pairs - p)) {
        for (const int end = p + run; p < end; ++p) {
            lines.touch_now();
            step(p);
        }
        if (p == num_pairs) break;
    }
    for (; p < num_pairs; ++p) step(p);
    prefetch = lines;
    SY_UNROLL for (int m = 0; m < MR; ++m) {
        SY_UNROLL for (int v = 0; v < NV; ++v) store(out + m * out_stride + v * kLanes, acc[v][m]);
    }
}

using TileFunction = void (*)(TileWeights, const uint32_t*, int64_t, int, float*, int64_t, bool,
                              Prefetch&);

template <int NV>
static TileFunction tile_function(int rows) {
    static constexpr TileFunction table[kMaxTileRows] = {
        tile_rows<NV, 1>, tile_rows<NV, 2>, tile_rows<NV, 3>,  tile_rows<NV, 4>,
        tile_rows<NV, 5>, tile_rows<NV, 6>, tile_rows<NV, 7>,  tile_rows<NV, 8>,
        tile_rows<NV, 9>, tile_rows<NV, 10>, tile_rows<NV, 11>, tile_rows<NV, 12>,
    };
    return table[rows - 1];
}

// Any number of rows, in even blocks of at most kMaxTileRows.
static inline void tile_all_rows(int num_vectors, TileWeights w, const uint32_t* x, int64_t x_stride,
                                 int num_rows, int num_pairs, float* out, int64_t out_stride,
                                 bool resume, Prefetch& prefetch) {
    const int blocks = (num_rows + kMaxTileRows - 1) / kMaxTileRows;
    for (int b = 0; b < blocks; ++b) {
        const int begin = static_cast<int>(static_cast<int64_t>(num_rows) * b / blocks);
        const int end = static_cast<int>(static_cast<int64_t>(num_rows) * (b + 1) / blocks);
        const TileFunction run =
            num_vectors == 2 ? tile_function<2>(end - begin) : tile_function<1>(end - begin);
        run(w, x + begin * x_stride, x_stride, num_pairs, out + begin * out_stride, out_stride, resume,
            prefetch);
    }
}
