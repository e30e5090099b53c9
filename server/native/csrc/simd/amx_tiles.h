// Projections on AMX: 32 rows by 32 outputs in four tiles of sums. Codes become bf16 as the weights'
// tiles are filled; further rows find them unpacked. Never run on a processor with AMX: its arithmetic
// is tested through the emulation in amx.h.
#pragma once

#include "simd/amx.h"
#include "simd/tile.h"

// Tiles 0..3: sums [row half][output half]; 4, 5: inputs; 6, 7: weights.
static inline void configure_tiles(int rows0, int rows1) {
    TileConfig config;
    config.set(0, rows0);
    config.set(1, rows0);
    config.set(4, rows0);
    if (rows1 > 0) {
        config.set(2, rows1);
        config.set(3, rows1);
        config.set(5, rows1);
    }
    config.set(6, kTilePairs);
    config.set(7, kTilePairs);
    sy_tile_configure(&config);
}

// Up to 32 rows by 32 outputs (16 when !kTwo) over `num_pairs` pairs, a multiple of 16. fill(v, pair)
// gives 16 pairs of the v-th 16 outputs as [16][16] dwords.
template <bool kTwo, typename Fill>
static inline void amx_rows(const uint32_t* x, int64_t x_stride, int num_rows, int num_pairs, float* out,
                            int64_t out_stride, bool resume, Prefetch& prefetch, Fill&& fill) {
    const int rows0 = num_rows < kTileRows ? num_rows : kTileRows, rows1 = num_rows - rows0;
    const int64_t x_bytes = x_stride * 4, out_bytes = out_stride * 4;
    const uint32_t* x1 = x + kTileRows * x_stride;
    float* out1 = out + kTileRows * out_stride;
    configure_tiles(rows0, rows1);
    if (resume) {
        sy_tile_load(0, out, out_bytes);
        if (kTwo) sy_tile_load(1, out + kLanes, out_bytes);
        if (rows1 > 0) {
            sy_tile_load(2, out1, out_bytes);
            if (kTwo) sy_tile_load(3, out1 + kLanes, out_bytes);
        }
    } else {
        sy_tile_zero(0);
        if (kTwo) sy_tile_zero(1);
        if (rows1 > 0) {
            sy_tile_zero(2);
            if (kTwo) sy_tile_zero(3);
        }
    }
    for (int pair = 0; pair < num_pairs; pair += kTilePairs) {
        sy_tile_load(6, fill(0, pair), kTileRowBytes);
        if (kTwo) sy_tile_load(7, fill(1, pair), kTileRowBytes);
        sy_tile_load(4, x + pair, x_bytes);
        sy_tile_dot(0, 4, 6);
        if (kTwo) sy_tile_dot(1, 4, 7);
        if (rows1 > 0) {
            sy_tile_load(5, x1 + pair, x_bytes);
            sy_tile_dot(2, 5, 6);
            if (kTwo) sy_tile_dot(3, 5, 7);
        }
        for (int i = 0; i < kTilePairs; ++i) prefetch.touch();
    }
    sy_tile_store(0, out, out_bytes);
    if (kTwo) sy_tile_store(1, out + kLanes, out_bytes);
    if (rows1 > 0) {
        sy_tile_store(2, out1, out_bytes);
        if (kTwo) sy_tile_store(3, out1 + kLanes, out_bytes);
    }
}

// All rows of one or two tile16. weights(v, pair, room, is_first) gives 16 pairs of the v-th as [16][16]:
// where they lie, or unpacked to `room`, where they still are when not is_first.
template <typename Weights>
static inline void amx_product(int num_vectors, int k, const uint32_t* x, int64_t x_stride, int num_rows, float* out,
                               int64_t out_stride, uint32_t* scratch, Prefetch& prefetch, Weights&& weights) {
    constexpr int64_t kStride = static_cast<int64_t>(kCutPairs) * kLanes;
    for (int first = 0; first < k / 2; first += kCutPairs) {
        const int count = k / 2 - first < kCutPairs ? k / 2 - first : kCutPairs;
        for (int row = 0; row < num_rows; row += 2 * kTileRows) {
            const int rows = num_rows - row < 2 * kTileRows ? num_rows - row : 2 * kTileRows;
            const auto fill = [&](int v, int pair) {
                uint32_t* room = scratch + v * kStride + static_cast<int64_t>(pair) * kLanes;
                return weights(v, first + pair, room, row == 0);
            };
            const uint32_t* xs = x + row * x_stride + first;
            float* to = out + row * out_stride;
            if (num_vectors == 2) {
                amx_rows<true>(xs, x_stride, rows, count, to, out_stride, first > 0, prefetch, fill);
            } else {
                amx_rows<false>(xs, x_stride, rows, count, to, out_stride, first > 0, prefetch, fill);
            }
        }
    }
    sy_tile_release();
}
