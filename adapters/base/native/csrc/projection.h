// One projection phase: the base product over all tiles and the adapters' shrinks, from one read of
// x; the deltas are added later by whoever post-processes the rows.
#pragma once

#include "lora_plan.h"
#include "weights.h"

constexpr int kMaxRanges = 64;

static inline int tiles_per_grab(int num_tiles, int num_threads, int num_rows) {
    if (num_rows > kFewRows) return 1;
    const int chunk = num_tiles / (num_threads * 8);
    return chunk < 1 ? 1 : chunk;
}

// One phase of the pool, to be called on every thread. x is bf16 [num_rows][x_stride], out fp32 with rows wide
// enough for n rounded up to 16. `epilogue(tile32)` runs after each tile.
template <typename Epilogue>
static void project(Worker& worker, const SyProjection& p, const uint16_t* x, int64_t x_stride,
                    int num_rows, float* out, int64_t out_stride, LoraPlan* lora, Epilogue&& epilogue) {
    const int num_tiles = num_tiles32(p.weight);
    const int num_shrinks = lora == nullptr ? 0 : lora->num_shrinks() * p.num_segments;
    uint8_t* scratch = worker.scratch(kLinearScratchBytes);
    const int64_t tile_bytes = 2 * tile_dwords(p.weight) * static_cast<int64_t>(sizeof(uint32_t));
    worker.for_each(num_tiles + num_shrinks, tiles_per_grab(num_tiles, worker.count(), num_rows),
                    [&](int i) {
        if (i >= num_tiles) return lora->run_shrink(i - num_tiles, p, x, x_stride);
        MemoryRange ranges[kMaxRanges];
        int num_ranges = 0;
        if (num_rows > kFewRows) {
            const int ahead = i + worker.count();
            if (ahead < num_tiles) {
                const char* codes = reinterpret_cast<const char*>(tile16(p.weight, 2 * ahead));
                ranges[num_ranges++] = {codes, tile_bytes};
                if (p.weight.kind == SY_NF4) {
                    const float* absmax = p.weight.scales + static_cast<int64_t>(2 * ahead) * (p.weight.k / 4);
                    ranges[num_ranges++] = {reinterpret_cast<const char*>(absmax), 2 * p.weight.k};
                }
            }
            if (num_shrinks > 0) {
                num_ranges += lora->ranges(p, i, num_tiles, ranges + num_ranges, kMaxRanges - num_ranges);
            }
        }
        Prefetch prefetch{nullptr, nullptr, ranges, num_ranges};
        linear_tile(p.weight, i, x, x_stride, num_rows, out, out_stride, scratch, prefetch);
        epilogue(i);
    });
}
