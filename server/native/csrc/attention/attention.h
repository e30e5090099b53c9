// Paged attention, decode and chunked prefill in one.
//
// Keys are taken in chunks of 256, counted from position 0 of the sequence. A chunk gives each query
// its own maximum, sum and output; chunks are then merged in order. A query's arithmetic so depends
// on its position alone: not on how its prompt was cut, nor on who shares the batch. Masked keys have
// probability exactly 0 and leave every sum's bits as they were.
//
// For many query rows a chunk's keys and values are repacked to the tile layout and the projections'
// kernel does both products, q.k over head_dim and p.v over keys; for few see attention_few.h. Probabilities are rounded to bf16, their sum too.
#pragma once

#include "abi.h"
#include "attention/attention_few.h"
#include "simd/tile.h"

constexpr int kChunkKeys = 256;
constexpr int kQueryRows = 48;  // query rows (tokens x heads of a group) that share a repacked chunk

// The running softmax of a set of query rows: output is unnormalised, relative to `maximum`.
struct SoftmaxState {
    float *maximum, *sum, *output;  // [rows], [rows], [rows][padded head_dim]
};

struct AttentionGeometry {
    int head_dim, padded_dim, group, tokens_per_tile, rows;

    explicit AttentionGeometry(const SyAttention& a)
        : head_dim(a.head_dim),
          padded_dim(static_cast<int>(round_up(a.head_dim, 32))),
          group(a.num_heads / a.num_kv_heads),
          tokens_per_tile(kQueryRows / group > 0 ? kQueryRows / group : 1),
          rows(tokens_per_tile * group) {}
    int64_t state_floats() const { return static_cast<int64_t>(rows) * (padded_dim + 2); }
    SoftmaxState state(float* memory, int num_rows) const {
        return {memory, memory + num_rows, memory + 2 * num_rows};
    }
    size_t scratch_bytes() const {
        const size_t r = static_cast<size_t>(rows), d = static_cast<size_t>(padded_dim);
        return kChunkKeys * d * 4 + r * d * 2 + r * (kChunkKeys + 16) * 4 + r * (kChunkKeys + 32) * 2 +
               2 * static_cast<size_t>(state_floats()) * 4 + 1024;
    }
};

// Tokens [first_token, first_token + num_tokens) of one row; choose_head() says which heads.
struct AttentionTile {
    int row, first_token, num_tokens, kv_head;
};

class ChunkAttention {
   public:
    ChunkAttention(const SyAttention& a, const AttentionTile& tile, uint8_t* scratch)
        : a_(a), g_(a), tile_(tile), rows_(tile.num_tokens * g_.group) {
        const int query_start = a.query_starts[tile.row];
        const int query_len = a.query_starts[tile.row + 1] - query_start;
        first_position_ = a.seq_lens[tile.row] - query_len + (tile.first_token - query_start);
        end_position_ = first_position_ + tile.num_tokens;
        const size_t d = static_cast<size_t>(g_.padded_dim), r = static_cast<size_t>(g_.rows);
        keys_ = reinterpret_cast<uint32_t*>(scratch);
        values_ = keys_ + kChunkKeys * d / 2;
        scores_ = reinterpret_cast<float*>(values_ + kChunkKeys * d / 2);
        probabilities_ = reinterpret_cast<uint16_t*>(scores_ + r * kScoreStride);
        queries_ = probabilities_ + r * kProbabilityStride;
        memory_ = reinterpret_cast<float*>(queries_ + r * d);
    }

    void choose_head(int kv_head) {
        tile_.kv_head = kv_head;
        copy_queries();
    }
    int num_chunks() const { return (end_position_ + kChunkKeys - 1) / kChunkKeys; }
    int rows() const { return rows_; }
    SoftmaxState first_state() const { return g_.state(memory_, rows_); }
    SoftmaxState second_state() const { return g_.state(memory_ + g_.state_floats(), rows_); }

    // Fills `out` with this chunk's softmax; maximum is -inf for rows that see none of its keys.
    void attend(int chunk, SoftmaxState out, Prefetch& prefetch) {
        const int base = chunk * kChunkKeys;
        const int end = end_position_ - base < kChunkKeys ? end_position_ - base : kChunkKeys;
        int begin = a_.window > 0 ? first_position_ - a_.window + 1 - base : 0;
        begin = begin < 0 ? 0 : begin / kLanes * kLanes;
        if (begin >= end) {
            for (int i = 0; i < rows_; ++i) out.maximum[i] = -__builtin_inff();
            return;
        }
        find_rows(base, begin, end);
        const bool is_few = rows_ <= kMaxFewRows;
        if (is_few) {
            score_few(begin, end, prefetch);
        } else {
            score_many(begin, end, prefetch);
        }
        const int end_lane = static_cast<int>(round_up(end, kLanes));
        for (int i = 0; i < rows_; ++i) softmax_row(i, base, begin, end_lane, out);
        const uint32_t* p = reinterpret_cast<const uint32_t*>(probabilities_) + begin / 2;
        if (is_few) {
            const FewValues run = few_values_function(rows_);
            for (int d = 0; d < g_.padded_dim; d += kTileColumns) {
                run(value_rows_ + begin, end - begin, d, g_.head_dim, p, kProbabilityStride / 2, out.output + d,
                    g_.padded_dim);
            }
            return;
        }
        pack_values(begin, end);
        const int num_pairs = (end + 1) / 2 - begin / 2;
        for (int d = 0; d < g_.padded_dim; d += kTileColumns) {
            const uint32_t* v = values_ + d / kLanes * kValueStride + begin / 2 * kLanes;
            tile_all_rows(2, {v, kValueStride}, p, kProbabilityStride / 2, rows_, num_pairs, out.output + d,
                          g_.padded_dim, false, prefetch);
        }
    }

    // total := total merged with part (a later chunk). Both keep their layout.
    void merge(SoftmaxState total, SoftmaxState part) const {
        for (int i = 0; i < rows_; ++i) {
            if (part.maximum[i] == -__builtin_inff()) continue;
            float* sums = total.output + static_cast<int64_t>(i) * g_.padded_dim;
            const float* more = part.output + static_cast<int64_t>(i) * g_.padded_dim;
            float keep = 0.0f, take = 1.0f;
            if (total.maximum[i] != -__builtin_inff()) {
                const float top = __builtin_fmaxf(total.maximum[i], part.maximum[i]);
                float factors[16];
                store(factors, exp(set1(total.maximum[i] - top)));
                keep = factors[0];
                store(factors, exp(set1(part.maximum[i] - top)));
                take = factors[0];
                total.maximum[i] = top;
                total.sum[i] = total.sum[i] * keep + part.sum[i] * take;
                for (int d = 0; d < g_.padded_dim; ++d) sums[d] = sums[d] * keep + more[d] * take;
            } else {
                total.maximum[i] = part.maximum[i];
                total.sum[i] = part.sum[i];
                for (int d = 0; d < g_.padded_dim; ++d) sums[d] = more[d];
            }
        }
    }

    void write(SoftmaxState state) const {
        for (int i = 0; i < rows_; ++i) {
            const F16 sum = set1(state.sum[i]);
            uint16_t* to = a_.output + query_offset(i);
            const float* from = state.output + static_cast<int64_t>(i) * g_.padded_dim;
            int d = 0;
            for (; d + kLanes <= g_.head_dim; d += kLanes) store_bf16(to + d, divide(load(from + d), sum));
            if (d < g_.head_dim) store_bf16_n(to + d, divide(load(from + d), sum), g_.head_dim - d);
        }
    }

   private:
    static constexpr int kScoreStride = kChunkKeys + 16;
    static constexpr int kProbabilityStride = kChunkKeys + 32;
    static constexpr int64_t kValueStride = kChunkKeys / 2 * kLanes;

    int64_t query_offset(int i) const {
        const int64_t token = tile_.first_token + i / g_.group;
        const int64_t head = tile_.kv_head * g_.group + i % g_.group;
        return token * a_.token_stride + head * a_.head_dim;
    }

    void copy_queries() {
        for (int i = 0; i < rows_; ++i) {
            uint16_t* to = queries_ + static_cast<int64_t>(i) * g_.padded_dim;
            __builtin_memcpy(to, a_.queries + query_offset(i), static_cast<size_t>(g_.head_dim) * 2);
            for (int d = g_.head_dim; d < g_.padded_dim; ++d) to[d] = 0;
        }
    }

    // Where the chunk's keys [begin, end) and values lie. What follows `end` in the last block may be
    // another sequence's leavings, NaN even: it is never read.
    void find_rows(int base, int begin, int end) {
        const int32_t* table = a_.block_tables + static_cast<int64_t>(tile_.row) * a_.max_blocks;
        const int64_t slot_elements = static_cast<int64_t>(a_.num_kv_heads) * a_.head_dim;
        int block = (base + begin) / a_.block_size, slot = (base + begin) % a_.block_size;
        for (int key = begin; key < end; ++block, slot = 0) {
            int64_t offset = (static_cast<int64_t>(table[block]) * a_.block_size + slot) * slot_elements +
                             static_cast<int64_t>(tile_.kv_head) * a_.head_dim;
            for (; slot < a_.block_size && key < end; ++slot, ++key, offset += slot_elements) {
                key_rows_[key] = a_.keys + offset;
                value_rows_[key] = a_.values + offset;
            }
        }
    }

    void score_few(int begin, int end, Prefetch& prefetch) {
        const FewScores run = few_scores_function(rows_);
        const uint32_t* q = reinterpret_cast<const uint32_t*>(queries_);
        for (int key = begin; key < end; key += kLanes) {
            const int count = end - key < kLanes ? end - key : kLanes;
            run(key_rows_ + key, count, g_.head_dim, q, g_.padded_dim / 2, scores_ + key, kScoreStride, prefetch);
        }
    }

    void score_many(int begin, int end, Prefetch& prefetch) {
        const int64_t tile_stride = static_cast<int64_t>(g_.padded_dim) / 2 * kLanes;
        for (int key = begin; key < end; key += kLanes) {
            const int count = end - key < kLanes ? end - key : kLanes;
            uint32_t* to = keys_ + key / kLanes * tile_stride;
            for (int d = 0; d < g_.padded_dim; d += 32) {
                P16 rows[kLanes];
                transposed_keys(key_rows_ + key, count, d, g_.head_dim, rows);
                for (int i = 0; i < kLanes; ++i) store_pairs(to + (d / 2 + i) * kLanes, rows[i]);
            }
        }
        const uint32_t* q = reinterpret_cast<const uint32_t*>(queries_);
        for (int key = begin; key < end; key += kTileColumns) {
            const int vectors = end - key > kLanes ? 2 : 1;
            tile_all_rows(vectors, {keys_ + key / kLanes * tile_stride, tile_stride}, q, g_.padded_dim / 2,
                          rows_, g_.padded_dim / 2, scores_ + key, kScoreStride, false,
                          prefetch);
        }
    }

    void pack_values(int begin, int end) {
        for (int key = begin; key < end; key += 2) {
            for (int d = 0; d < g_.padded_dim; d += 32) {
                const P16 first = load_dims(value_rows_[key], d, g_.head_dim);
                const P16 second =
                    key + 1 < end ? load_dims(value_rows_[key + 1], d, g_.head_dim) : broadcast_pair(0);
                P16 low, high;
                pair_rows(first, second, &low, &high);
                uint32_t* to = values_ + d / kLanes * kValueStride + key / 2 * kLanes;
                store_pairs(to, low);
                store_pairs(to + kValueStride, high);
            }
        }
    }

    void softmax_row(int i, int base, int begin, int end_lane, SoftmaxState out) {
        const int position = first_position_ + i / g_.group;
        const int low = a_.window > 0 ? position - a_.window + 1 - base : -base;
        const int high = position + 1 - base;
        float* scores = scores_ + static_cast<int64_t>(i) * kScoreStride;
        uint16_t* probabilities = probabilities_ + static_cast<int64_t>(i) * kProbabilityStride;
        const F16 hidden = set1(-__builtin_inff());
        F16 top = hidden;
        for (int key = begin; key < end_lane; key += kLanes) {
            F16 s = mul(load(scores + key), set1(a_.scale));
            if (a_.softcap > 0.0f) s = mul(set1(a_.softcap), tanh(divide(s, set1(a_.softcap))));
            if (low > key || high < key + kLanes) s = keep_lanes(s, low - key, high - key, hidden);
            store(scores + key, s);
            top = max(top, s);
        }
        const float maximum = reduce_max(top);
        out.maximum[i] = maximum;
        const F16 shift = set1(maximum == -__builtin_inff() ? 0.0f : maximum);
        F16 sum = zero();
        for (int key = begin; key < end_lane; key += kLanes) {
            store_bf16(probabilities + key, exp(sub(load(scores + key), shift)));
            sum = add(sum, load_bf16(probabilities + key));
        }
        out.sum[i] = reduce_add(sum);
    }

    const SyAttention& a_;
    const AttentionGeometry g_;
    AttentionTile tile_;
    const int rows_;
    int first_position_, end_position_;
    uint32_t *keys_, *values_;
    float* scores_;
    uint16_t *probabilities_, *queries_;
    float* memory_;
    const uint16_t* key_rows_[kChunkKeys];
    const uint16_t* value_rows_[kChunkKeys];
};
