// How one step's attention is cut into items: query tiles per kv head, and for single tokens with a
// long past one item per chunk of keys, merged in order by whichever thread finishes last.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "attention/attention.h"
#include "pool.h"

class AttentionPlan {
   public:
    // The plan holds for every layer of the step: `a` gives the batch and head geometry.
    void prepare(const SyAttention& a, int num_threads) {
        const AttentionGeometry g(a);
        items_.clear();
        num_kv_heads_ = a.num_kv_heads;
        int num_split_tiles = 0;
        int64_t num_partials = 0;
        for (int row = 0; row < a.num_rows; ++row) {
            const int begin = a.query_starts[row], end = a.query_starts[row + 1];
            const int chunks = (a.seq_lens[row] + kChunkKeys - 1) / kChunkKeys;
            if (end - begin == 1 && chunks > 1) {
                for (int c = 0; c < chunks; ++c) {
                    items_.push_back({{row, begin, 1, 0}, c, chunks, num_partials, num_split_tiles});
                }
                num_partials += static_cast<int64_t>(chunks) * num_kv_heads_;
                ++num_split_tiles;
                continue;
            }
            for (int token = begin; token < end; token += g.tokens_per_tile) {
                const int count = end - token < g.tokens_per_tile ? end - token : g.tokens_per_tile;
                items_.push_back({{row, token, count, 0}, -1, chunks, 0, 0});
            }
        }
        partial_floats_ = static_cast<int64_t>(g.group) * (g.padded_dim + 2);
        partials_.resize(static_cast<size_t>(num_partials * partial_floats_));
        const int counters = num_split_tiles * num_kv_heads_;
        if (counters > num_counters_) {
            num_counters_ = counters;
            done_ = std::make_unique<std::atomic<int>[]>(static_cast<size_t>(counters));
        }
        scratch_bytes_ = g.scratch_bytes();
        list_blocks(a);
        // With rows enough for all threads one item takes all heads: their keys are neighbours.
        heads_per_item_ = static_cast<int>(items_.size()) >= 4 * num_threads ? num_kv_heads_ : 1;
    }

    // Part `part` of `num_parts` of the keys and values that this layer's attention reads, for the phase
    // before it to bring near: attention waits for memory where products wait for arithmetic.
    int ranges_ahead(const SyAttention& a, int part, int num_parts, LineRange* out, int max_ranges) const {
        const int64_t total = static_cast<int64_t>(blocks_.size());
        const int64_t bytes = block_elements(a) * static_cast<int64_t>(sizeof(uint16_t));
        int count = 0;
        for (int64_t i = total * part / num_parts; i < total * (part + 1) / num_parts && count + 2 <= max_ranges; ++i) {
            const int64_t first = blocks_[static_cast<size_t>(i)] * block_elements(a);
            out[count++] = line_range(a.keys + first, bytes);
            out[count++] = line_range(a.values + first, bytes);
        }
        return count;
    }

    // One layer: one phase of the pool. Call on every thread.
    void run(Worker& worker, const SyAttention& a) {
        const int parts = num_kv_heads_ / heads_per_item_;
        const int num_items = static_cast<int>(items_.size()) * parts;
        worker.for_each(num_items, [&](int i) {
            const Item& item = items_[static_cast<size_t>(i / parts)];
            LineRange ranges[kMaxKeyRanges];
            Prefetch prefetch;
            prefetch.ranges = ranges;
            if (parts == 1 && i + 1 < num_items) {
                prefetch.num_ranges = key_ranges(a, items_[static_cast<size_t>(i) + 1], ranges);
            }
            ChunkAttention attention(a, item.tile, worker.scratch(scratch_bytes_));
            const int first_head = i % parts * heads_per_item_;
            for (int head = first_head; head < first_head + heads_per_item_; ++head) {
                attention.choose_head(head);
                if (item.chunk >= 0) {
                    run_split(attention, item, head, prefetch);
                } else {
                    run_whole(attention, prefetch);
                }
            }
        });
    }

   private:
    static constexpr int kMaxKeyRanges = 64;
    // Of one layer; the third-level cache holds this much beside all else that passes through it.
    static constexpr int64_t kMaxBytesAhead = 8 << 20;
    struct Item {
        AttentionTile tile;
        int chunk, num_chunks;  // chunk -1: all chunks in turn
        int64_t first_partial;
        int split_tile;
    };

    static int64_t block_elements(const SyAttention& a) {
        return static_cast<int64_t>(a.block_size) * a.num_kv_heads * a.head_dim;
    }

    void list_blocks(const SyAttention& a) {
        blocks_.clear();
        const int64_t most = kMaxBytesAhead / (2 * block_elements(a) * static_cast<int64_t>(sizeof(uint16_t)));
        for (int row = 0; row < a.num_rows; ++row) {
            const int seen = a.window > 0 && a.seq_lens[row] > a.window ? a.seq_lens[row] - a.window : 0;
            const int32_t* table = a.block_tables + static_cast<int64_t>(row) * a.max_blocks;
            for (int block = seen / a.block_size; block * a.block_size < a.seq_lens[row]; ++block) {
                if (static_cast<int64_t>(blocks_.size()) == most) return;
                blocks_.push_back(table[block]);
            }
        }
    }

    // Keys and values of an item's first chunk, block by block.
    static int key_ranges(const SyAttention& a, const Item& item, LineRange* out) {
        const int end = a.seq_lens[item.tile.row];
        const int chunk_begin = item.chunk < 0 ? 0 : item.chunk * kChunkKeys;
        const int chunk_end = chunk_begin + kChunkKeys < end ? chunk_begin + kChunkKeys : end;
        const int64_t slot = static_cast<int64_t>(a.num_kv_heads) * a.head_dim;
        const int32_t* table = a.block_tables + static_cast<int64_t>(item.tile.row) * a.max_blocks;
        int count = 0;
        for (int key = chunk_begin; key < chunk_end && count + 2 <= kMaxKeyRanges; key += a.block_size) {
            const int64_t block = table[key / a.block_size];
            const int64_t bytes = a.block_size * slot * static_cast<int64_t>(sizeof(uint16_t));
            out[count++] = line_range(a.keys + block * a.block_size * slot, bytes);
            out[count++] = line_range(a.values + block * a.block_size * slot, bytes);
        }
        return count;
    }

    static void run_whole(ChunkAttention& attention, Prefetch& prefetch) {
        const SoftmaxState total = attention.first_state(), part = attention.second_state();
        attention.attend(0, total, prefetch);
        for (int c = 1; c < attention.num_chunks(); ++c) {
            attention.attend(c, part, prefetch);
            attention.merge(total, part);
        }
        attention.write(total);
    }

    SoftmaxState partial(const Item& item, int kv_head, int chunk, int rows) {
        const int64_t index = item.first_partial + static_cast<int64_t>(kv_head) * item.num_chunks + chunk;
        float* memory = partials_.data() + index * partial_floats_;
        return {memory, memory + rows, memory + 2 * rows};
    }

    void run_split(ChunkAttention& attention, const Item& item, int kv_head, Prefetch& prefetch) {
        attention.attend(item.chunk, partial(item, kv_head, item.chunk, attention.rows()), prefetch);
        std::atomic<int>& done = done_[static_cast<size_t>(item.split_tile * num_kv_heads_ + kv_head)];
        if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < item.num_chunks) return;
        done.store(0, std::memory_order_relaxed);  // for the next layer, the phase's end is between
        const SoftmaxState total = partial(item, kv_head, 0, attention.rows());
        for (int c = 1; c < item.num_chunks; ++c) {
            attention.merge(total, partial(item, kv_head, c, attention.rows()));
        }
        attention.write(total);
    }

    std::vector<Item> items_;
    std::vector<int32_t> blocks_;  // in the order in which rows come, up to kMaxBytesAhead
    int num_kv_heads_ = 0, heads_per_item_ = 1;
    std::vector<float> partials_;
    int64_t partial_floats_ = 0;
    std::unique_ptr<std::atomic<int>[]> done_;
    int num_counters_ = 0;
    size_t scratch_bytes_ = 0;
};
