// The two products of attention for few query rows (a token's heads of one group): keys and values
// go from registers into the sums. The same sums in the same order as the tile kernel's, without the
// repacked copy, which only pays when many rows share it.
#pragma once

#include "simd/tile.h"

constexpr int kMaxFewRows = 8;

// 32 elements of a row from dimension d on; nothing past head_dim is read.
static inline P16 load_dims(const uint16_t* row, int d, int head_dim) {
    return head_dim - d >= 32 ? load_bf16_32(row + d) : load_bf16_32_n(row + d, head_dim - d);
}

// rows[i] = dimensions d + 2i, d + 2i + 1 of 16 keys, key by lane. Keys from `count` on are zero.
static inline void transposed_keys(const uint16_t* const* keys, int count, int d, int head_dim, P16 rows[16]) {
    if (count == kLanes) {
        for (int i = 0; i < kLanes; ++i) rows[i] = load_dims(keys[i], d, head_dim);
    } else {
        for (int i = 0; i < kLanes; ++i) {
            rows[i] = i < count ? load_dims(keys[i], d, head_dim) : broadcast_pair(0);
        }
    }
    transpose(rows);
}

// scores[m][0..15] = q[m] . keys
template <int MR>
static void few_scores(const uint16_t* const* keys, int count, int head_dim, const uint32_t* q,
                       int64_t q_stride, float* scores, int64_t score_stride, Prefetch& prefetch) {
    F16 acc[MR];
    SY_UNROLL for (int m = 0; m < MR; ++m) acc[m] = zero();
    for (int d = 0; d < head_dim; d += 32) {
        P16 rows[kLanes];
        transposed_keys(keys, count, d, head_dim, rows);
        SY_UNROLL for (int i = 0; i < kLanes; ++i) {
            SY_UNROLL for (int m = 0; m < MR; ++m) {
                acc[m] = dot(acc[m], rows[i], broadcast_pair(q[m * q_stride + d / 2 + i]));
            }
        }
        for (int i = 0; i < kLanes; ++i) prefetch.touch();
    }
    SY_UNROLL for (int m = 0; m < MR; ++m) store(scores + m * score_stride, acc[m]);
}

// out[m][0..31] = sum over pairs of keys of p[m] . values[..][d .. d + 31]; key `num_keys` and on is zero.
template <int MR>
static void few_values(const uint16_t* const* values, int num_keys, int d, int head_dim, const uint32_t* p,
                       int64_t p_stride, float* out, int64_t out_stride) {
    F16 acc[2][MR];
    SY_UNROLL for (int m = 0; m < MR; ++m) acc[0][m] = acc[1][m] = zero();
    for (int pair = 0; 2 * pair < num_keys; ++pair) {
        const P16 first = load_dims(values[2 * pair], d, head_dim);
        const P16 second =
            2 * pair + 1 < num_keys ? load_dims(values[2 * pair + 1], d, head_dim) : broadcast_pair(0);
        P16 low, high;
        pair_rows(first, second, &low, &high);
        SY_UNROLL for (int m = 0; m < MR; ++m) {
            const P16 weight = broadcast_pair(p[m * p_stride + pair]);
            acc[0][m] = dot(acc[0][m], low, weight);
            acc[1][m] = dot(acc[1][m], high, weight);
        }
    }
    SY_UNROLL for (int m = 0; m < MR; ++m) {
        store(out + m * out_stride, acc[0][m]);
        store(out + m * out_stride + kLanes, acc[1][m]);
    }
}

using FewScores = void (*)(const uint16_t* const*, int, int, const uint32_t*, int64_t, float*, int64_t,
                           Prefetch&);
using FewValues = void (*)(const uint16_t* const*, int, int, int, const uint32_t*, int64_t, float*, int64_t);

static inline FewScores few_scores_function(int rows) {
    static constexpr FewScores table[kMaxFewRows] = {few_scores<1>, few_scores<2>, few_scores<3>,
                                                     few_scores<4>, few_scores<5>, few_scores<6>,
                                                     few_scores<7>, few_scores<8>};
    return table[rows - 1];
}
static inline FewValues few_values_function(int rows) {
    static constexpr FewValues table[kMaxFewRows] = {few_values<1>, few_values<2>, few_values<3>,
                                                     few_values<4>, few_values<5>, few_values<6>,
                                                     few_values<7>, few_values<8>};
    return table[rows - 1];
}
