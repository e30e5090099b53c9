// Projections as phases of the pool: first the adapters' shrinks, all of them; then the base product,
// tile by tile, each tile finished at once - deltas, bias, and whatever its caller does with the
// columns - while it lies in the core's own cache.
#pragma once

#include "attention/attention_plan.h"
#include "lora/lora_plan.h"
#include "weights/weights.h"

constexpr int kMaxRanges = 512;

// What a projection reads and where its results go.
struct ProjectionCall {
    const SyProjection& p;
    const uint16_t* x;
    int64_t x_stride;
    int num_rows;
    LoraPlan* lora;            // null: the step has no adapter work
    const SyProjection* next;  // whose adapter pages to bring near meanwhile, or null
    uint16_t* scaled = nullptr;  // room for scaled inputs, laid out as x; null: never scaled
    uint8_t* byte_room = nullptr;  // for all rows' ByteRows, where the weights multiply bytes
    // The attention whose keys and values to bring near meanwhile, or null.
    const AttentionPlan* attention = nullptr;
    const SyAttention* attention_layer = nullptr;
};

// One item's columns: `runs` runs of `width`, `stride` apart (gate and up: 2 runs of one tile).
struct ColumnUnit {
    int num_units, width, num_runs, run_stride;
};

static inline int unit_columns(const ColumnUnit& unit, int num_outputs, int index) {
    const int end = unit.num_runs > 1 ? unit.run_stride : num_outputs;
    return end - index * unit.width < unit.width ? end - index * unit.width : unit.width;
}

// Columns of one item in the sums' buffer: whole tiles.
static inline int64_t unit_stride(const ColumnUnit& unit) {
    return round_up(unit.width, kTileColumns) * unit.num_runs;
}

static inline void run_shrinks(Worker& worker, const ProjectionCall& call) {
    if (call.lora == nullptr) return;
    worker.for_each(call.lora->num_shrinks() * call.p.num_segments, [&](int i) {
        call.lora->run_shrink(i, call.p, call.x, call.x_stride);
    });
    if (call.scaled == nullptr || !call.lora->scales_inputs(call.p)) return;
    worker.for_each(call.lora->num_blocks(), [&](int i) {
        call.lora->run_scale(i, call.p, call.x, call.x_stride, call.scaled);
    });
}

// What the base product multiplies: x, or what run_shrinks made of it.
static inline const uint16_t* base_inputs(const ProjectionCall& call) {
    const bool is_scaled = call.scaled != nullptr && call.lora != nullptr && call.lora->scales_inputs(call.p);
    return is_scaled ? call.scaled : call.x;
}

// What an item should bring near: its own deltas' B, a share of the next projection's A, and the next
// item's codes (the next item of a share is its thread's own).
static inline int unit_ranges(const ProjectionCall& call, const ColumnUnit& unit, int index, LineRange* out) {
    const SyWeight& w = call.p.weight;
    int count = 0;
    if (call.lora != nullptr) {
        for (int run = 0; run < unit.num_runs; ++run) {
            const int begin = run * unit.run_stride + index * unit.width;
            count += call.lora->expand_ranges(call.p, begin, begin + unit_columns(unit, w.n, index), out + count,
                                              kMaxRanges - 16 - count);
        }
        if (call.next != nullptr) {
            count += call.lora->shrink_ranges(*call.next, index, unit.num_units, out + count,
                                              kMaxRanges - 16 - count);
        }
    }
    if (call.attention != nullptr) {
        count += call.attention->ranges_ahead(*call.attention_layer, index, unit.num_units, out + count,
                                              kMaxRanges - 16 - count);
    }
    if (call.num_rows <= kFewRows || index + 1 == unit.num_units) return count;
    const int64_t tile_bytes = 2 * tile_dwords(w) * static_cast<int64_t>(sizeof(uint32_t));
    for (int run = 0; run < unit.num_runs && count + 2 <= kMaxRanges; ++run) {
        const int64_t tile = 2 * ((run * unit.run_stride + (index + 1) * unit.width) / kTileColumns);
        out[count++] = line_range(tile16(w, tile), tile_bytes * (unit.width / kTileColumns));
        if (w.kind == SY_NF4 || w.kind == SY_NF4_BYTES) {
            out[count++] = line_range(w.scales + tile * (w.k / 4), 2 * w.k * (unit.width / kTileColumns));
        }
    }
    return count;
}

// Many rows are rounded to bytes in a phase of their own. For few a barrier costs more than the work:
// each thread rounds them for itself, once it has an item.
static inline bool shares_bytes(const ProjectionCall& call) {
    return multiplies_bytes(call.p.weight) && call.num_rows > kFewRows;
}
static inline void run_round(Worker& worker, const ProjectionCall& call, const uint16_t* x) {
    if (!shares_bytes(call)) return;
    const ByteRows rows(call.byte_room, call.num_rows, call.p.weight.k);
    worker.for_each(call.num_rows, [&](int m) {
        round_to_bytes(rows, m, x + m * call.x_stride, call.p.weight.k);
    });
}

// Other threads wrote most of x, and their caches are far: ask for all of it at once, not line by
// line as the first tile comes by. More than fits in the first-level cache would be too early.
static inline void ask_for_inputs(const ProjectionCall& call) {
    constexpr int64_t kMaxBytes = 48 << 10;
    const bool is_shared = shares_bytes(call);
    const int64_t row_bytes = static_cast<int64_t>(call.p.weight.k) * (is_shared ? 1 : 2);
    const int64_t stride = is_shared ? ByteRows::row_bytes(call.p.weight.k) : call.x_stride * 2;
    const char* rows = is_shared ? reinterpret_cast<const char*>(call.byte_room) : reinterpret_cast<const char*>(call.x);
    for (int64_t m = 0; m < call.num_rows && (m + 1) * row_bytes <= kMaxBytes; ++m) {
        const char* row = rows + m * stride;
        for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(row + i, 0, 3);
    }
}

// The product phase: for each unit `finish(index, first_column, sums, stride)`, sums being fp32
// [num_rows][stride], run r of the unit's columns at r * width rounded up to whole tiles.
template <typename Finish>
static void run_product(Worker& worker, const ProjectionCall& call, const ColumnUnit& unit, Finish&& finish) {
    const SyWeight& w = call.p.weight;
    const int64_t stride = unit_stride(unit);
    const int64_t run_width = stride / unit.num_runs;
    const size_t sums_bytes = static_cast<size_t>(stride * call.num_rows) * sizeof(float);
    const bool has_bytes = multiplies_bytes(w), is_shared = shares_bytes(call);
    const int64_t byte_room = has_bytes && !is_shared ? ByteRows::room_bytes(call.num_rows, w.k) : 0;
    const uint16_t* x = base_inputs(call);
    run_round(worker, call, x);
    ask_for_inputs(call);
    bool is_rounded = is_shared;
    worker.for_each(unit.num_units, [&](int index) {
        uint8_t* scratch = worker.scratch(kLinearScratchBytes + static_cast<size_t>(byte_room) + sums_bytes);
        float* sums = reinterpret_cast<float*>(scratch + kLinearScratchBytes + byte_room);
        const ByteRows bytes(is_shared ? call.byte_room : scratch + kLinearScratchBytes, call.num_rows, w.k);
        for (int m = 0; has_bytes && !is_rounded && m < call.num_rows; ++m) {
            round_to_bytes(bytes, m, x + m * call.x_stride, w.k);
        }
        is_rounded = true;
        LineRange ranges[kMaxRanges];
        Prefetch prefetch;
        prefetch.ranges = ranges;
        prefetch.num_ranges = unit_ranges(call, unit, index, ranges);
        const int columns = unit_columns(unit, w.n, index);
        for (int run = 0; run < unit.num_runs; ++run) {
            const int first = run * unit.run_stride + index * unit.width;
            float* to = sums + run * run_width;
            for (int column = 0; column < columns; column += kTileColumns) {
                const int tile = (first + column) / kTileColumns;
                if (has_bytes) {
                    byte_linear_tile(w, tile, bytes, call.num_rows, to + column, stride, prefetch);
                } else {
                    linear_tile(w, tile, x, call.x_stride, call.num_rows, to + column, stride, scratch, prefetch);
                }
            }
            if (call.p.bias != nullptr) {
                for (int m = 0; m < call.num_rows; ++m) {
                    for (int i = 0; i < columns; ++i) to[m * stride + i] += call.p.bias[first + i];
                }
            }
            if (call.lora != nullptr) {
                call.lora->run_vectors(call.p, first, first + columns, to, stride);
                call.lora->run_expand(call.p, first, first + columns, to, stride);
            }
        }
        finish(index, index * unit.width, sums, stride);
    });
}

// Plain tiles of 32 columns.
static inline ColumnUnit tile_units(const SyWeight& w) { return {num_tiles32(w), kTileColumns, 1, 0}; }
