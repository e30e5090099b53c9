// The tile instructions of AMX-BF16 by one set of names. With SY_AMX_EMULATED they are plain C, so that
// the kernel's arithmetic can be tested on a processor without them.
//
// A product adds the even and the odd elements' sums of its k apart, then both to the target (Intel's
// TDPBF16PS): the order is fixed for each row, whatever the rows beside it.
#pragma once

#include <cstdint>
#include <cstring>

constexpr int kTileRows = 16;        // rows of a tile
constexpr int kTileRowBytes = 64;    // 32 bf16 or 16 fp32
constexpr int kTilePairs = 16;       // bf16 pairs of a row

// What LDTILECFG reads: palette 1, the width in bytes and the rows of each tile.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
    void set(int tile, int num_rows) {
        row_bytes[tile] = kTileRowBytes;
        rows[tile] = static_cast<uint8_t>(num_rows);
    }
};
static_assert(sizeof(TileConfig) == 64);

#if !defined(SY_AMX_EMULATED)
#include <immintrin.h>
#define sy_tile_configure(config) _tile_loadconfig(config)
#define sy_tile_zero(tile) _tile_zero(tile)
#define sy_tile_load(tile, from, stride) _tile_loadd(tile, from, stride)
#define sy_tile_store(tile, to, stride) _tile_stored(tile, to, stride)
#define sy_tile_dot(target, a, b) _tile_dpbf16ps(target, a, b)
#define sy_tile_release() _tile_release()
#else

struct EmulatedTiles {
    TileConfig config;
    uint8_t bytes[8][kTileRows][kTileRowBytes];
};
static thread_local EmulatedTiles emulated_tiles;

static inline void sy_tile_configure(const TileConfig* config) {
    memset(&emulated_tiles, 0, sizeof emulated_tiles);
    emulated_tiles.config = *config;
}
static inline void sy_tile_release() {}
static inline void sy_tile_zero(int tile) { memset(emulated_tiles.bytes[tile], 0, sizeof emulated_tiles.bytes[tile]); }
static inline void sy_tile_load(int tile, const void* from, int64_t stride) {
    for (int r = 0; r < emulated_tiles.config.rows[tile]; ++r) {
        memcpy(emulated_tiles.bytes[tile][r], static_cast<const uint8_t*>(from) + r * stride, kTileRowBytes);
    }
}
static inline void sy_tile_store(int tile, void* to, int64_t stride) {
    for (int r = 0; r < emulated_tiles.config.rows[tile]; ++r) {
        memcpy(static_cast<uint8_t*>(to) + r * stride, emulated_tiles.bytes[tile][r], kTileRowBytes);
    }
}
static inline void sy_tile_dot(int target, int a, int b) {
    const auto element = [](const uint8_t* row, int index) {
        uint16_t word;
        memcpy(&word, row + 2 * index, sizeof word);
        const uint32_t wide = static_cast<uint32_t>(word) << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    };
    const auto& tiles = emulated_tiles.bytes;
    for (int m = 0; m < emulated_tiles.config.rows[target]; ++m) {
        float even[kTilePairs] = {}, odd[kTilePairs] = {}, sums[kTilePairs];
        for (int k = 0; k < kTilePairs; ++k) {
            const float first = element(tiles[a][m], 2 * k), second = element(tiles[a][m], 2 * k + 1);
            for (int n = 0; n < kTilePairs; ++n) {
                even[n] += first * element(tiles[b][k], 2 * n);
                odd[n] += second * element(tiles[b][k], 2 * n + 1);
            }
        }
        memcpy(sums, tiles[target][m], sizeof sums);
        for (int n = 0; n < kTilePairs; ++n) sums[n] += even[n] + odd[n];
        memcpy(emulated_tiles.bytes[target][m], sums, sizeof sums);
    }
}
#endif
