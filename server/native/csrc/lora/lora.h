// Adapter deltas by work triples: y[t] += sum over (page, scale) of scale * module_scale * (A x[t]) B.
//
// A page holds 8 rank components of one adapter: per module A [8][k] and B [8][n] (B transposed, so
// that expand streams along n). The order of sums is fixed per token: k in lanes of 32, then pages
// in list order, then rank components; tokens that share a page share its bytes, never their sums.
#pragma once

#include "abi.h"
#include "simd/simd.h"

constexpr int kPageRank = 8;

// h[t][0..7] = scale * A x[t] for T tokens.
template <int T>
static void shrink_block(const uint16_t* a, int k, const uint16_t* x, int64_t x_stride, float scale,
                         float* h, int64_t h_stride) {
    F16 acc[T][kPageRank];
    SY_UNROLL for (int t = 0; t < T; ++t) {
        SY_UNROLL for (int r = 0; r < kPageRank; ++r) acc[t][r] = zero();
    }
    const int whole = k / 32 * 32;
    for (int i = 0; i < whole; i += 32) {
        P16 xs[T];
        SY_UNROLL for (int t = 0; t < T; ++t) xs[t] = load_bf16_32(x + t * x_stride + i);
        SY_UNROLL for (int r = 0; r < kPageRank; ++r) {
            const P16 row = load_bf16_32(a + static_cast<int64_t>(r) * k + i);
            SY_UNROLL for (int t = 0; t < T; ++t) acc[t][r] = dot(acc[t][r], row, xs[t]);
        }
    }
    if (whole < k) {
        for (int r = 0; r < kPageRank; ++r) {
            const P16 row = load_bf16_32_n(a + static_cast<int64_t>(r) * k + whole, k - whole);
            for (int t = 0; t < T; ++t) {
                const P16 xs = load_bf16_32_n(x + t * x_stride + whole, k - whole);
                acc[t][r] = dot(acc[t][r], row, xs);
            }
        }
    }
    SY_UNROLL for (int t = 0; t < T; ++t) {
        SY_UNROLL for (int r = 0; r < kPageRank; ++r) h[t * h_stride + r] = scale * reduce_add(acc[t][r]);
    }
}

// One (page, module) for `num_tokens` tokens of a row. Does nothing when the module is absent.
static inline void shrink(const SyBank& bank, int page, int module, float scale, const uint16_t* x,
                          int64_t x_stride, int num_tokens, float* h, int64_t h_stride) {
    const float factor = scale * bank.module_scales[static_cast<int64_t>(page) * bank.num_modules + module];
    if (factor == 0.0f) return;
    const uint16_t* a = bank.pages + page * bank.page_elements + bank.a_offsets[module];
    const int k = bank.in_features[module];
    int t = 0;
    for (; t + 3 <= num_tokens; t += 3) {
        shrink_block<3>(a, k, x + t * x_stride, x_stride, factor, h + t * h_stride, h_stride);
    }
    for (; t < num_tokens; ++t) {
        shrink_block<1>(a, k, x + t * x_stride, x_stride, factor, h + t * h_stride, h_stride);
    }
}

// The pages of one row and where their shrunk activations lie: h[token][item][segment][8].
struct RowWork {
    const int32_t* pages;
    const float* scales;
    int num_items;
    const float* h;
    int64_t h_token_stride, h_item_stride;
};

template <int T, bool kWhole>
static void expand_block(const SyBank& bank, const RowWork& work, const float* shrunk, int module, int column,
                         int count, float* y, int64_t y_stride) {
    F16 even[T], odd[T];
    SY_UNROLL for (int t = 0; t < T; ++t) even[t] = odd[t] = zero();
    const int64_t n = bank.out_features[module];
    bool touched = false;
    for (int j = 0; j < work.num_items; ++j) {
        const int64_t page = work.pages[j];
        if (work.scales[j] * bank.module_scales[page * bank.num_modules + module] == 0.0f) continue;
        touched = true;
        const uint16_t* b = bank.pages + page * bank.page_elements + bank.b_offsets[module] + column;
        const float* h = shrunk + j * work.h_item_stride;
        SY_UNROLL for (int r = 0; r < kPageRank; ++r) {
            const P16 row = kWhole ? load_bf16_32(b + r * n) : load_bf16_32_n(b + r * n, count);
            const F16 row_even = even_floats(row), row_odd = odd_floats(row);
            SY_UNROLL for (int t = 0; t < T; ++t) {
                const F16 factor = set1(h[t * work.h_token_stride + r]);
                even[t] = fma(row_even, factor, even[t]);
                odd[t] = fma(row_odd, factor, odd[t]);
            }
        }
    }
    if (!touched) return;
    SY_UNROLL for (int t = 0; t < T; ++t) {
        F16 low, high;
        interleave(even[t], odd[t], &low, &high);
        float* to = y + t * y_stride;
        if constexpr (kWhole) {
            store(to, add(load(to), low));
            store(to + kLanes, add(load(to + kLanes), high));
        } else {
            const int first = count < kLanes ? count : kLanes;
            store_n(to, add(load_n(to, first), low), first);
            if (count > kLanes) {
                store_n(to + kLanes, add(load_n(to + kLanes, count - kLanes), high), count - kLanes);
            }
        }
    }
}

template <bool kWhole>
static void expand_columns(const SyBank& bank, const RowWork& work, int module, int column, int count,
                           int num_tokens, float* y, int64_t y_stride) {
    const float* h = work.h;
    int t = 0;
    for (; t + 4 <= num_tokens; t += 4, h += 4 * work.h_token_stride) {
        expand_block<4, kWhole>(bank, work, h, module, column, count, y + t * y_stride, y_stride);
    }
    for (; t < num_tokens; ++t, h += work.h_token_stride) {
        expand_block<1, kWhole>(bank, work, h, module, column, count, y + t * y_stride, y_stride);
    }
}

// Adds the deltas of `module`, its outputs [begin, end), to y (whose column 0 is output `begin`).
static inline void expand(const SyBank& bank, const RowWork& work, int module, int begin, int end,
                          int num_tokens, float* y, int64_t y_stride) {
    int column = begin;
    for (; column + 32 <= end; column += 32) {
        expand_columns<true>(bank, work, module, column, 32, num_tokens, y + column - begin, y_stride);
    }
    if (column < end) {
        expand_columns<false>(bank, work, module, column, end - column, num_tokens, y + column - begin, y_stride);
    }
}
