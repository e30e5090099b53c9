// Vector pages: per module fp32 output scale c [n], output bias d [n] and input scale e [k], in the
// place of the module's A. With y the base's output, its bias included,
//   y[t] += y[t] * sum(scale * c) + sum(scale * d)
// over the vector pages of the token's row, in list order, and the base's inputs are
//   x[t] * (1 + sum(scale * e)), rounded to bf16.
// A row without such pages is not touched, so its bits don't depend on its neighbours.
#pragma once

#include <cstring>

#include "lora/lora.h"

enum SyVectorBits : uint8_t { SY_VECTOR_OUTPUT = 1, SY_VECTOR_INPUT = 2 };

static inline uint8_t vector_bits(const SyBank& bank, int64_t page, int module) {
    return bank.vector_flags[page * bank.num_vectors + module];
}

static inline const float* vector_place(const SyBank& bank, int64_t page, int module) {
    return reinterpret_cast<const float*>(bank.pages + page * bank.page_elements + bank.a_offsets[module]);
}

// Outputs [begin, end) of `module` for `num_tokens` tokens of a row; column 0 of y is `begin`.
static inline void apply_output_vectors(const SyBank& bank, const int32_t* pages, const float* scales,
                                        int num_items, int module, int begin, int end, int num_tokens,
                                        float* y, int64_t y_stride) {
    constexpr int kWidth = 64;
    const int64_t n = bank.out_features[module];
    for (int column = begin; column < end; column += kWidth) {
        const int count = end - column < kWidth ? end - column : kWidth;
        float factor[kWidth] = {}, shift[kWidth] = {};
        bool touched = false;
        for (int j = 0; j < num_items; ++j) {
            if ((vector_bits(bank, pages[j], module) & SY_VECTOR_OUTPUT) == 0) continue;
            touched = true;
            const float* c = vector_place(bank, pages[j], module) + column;
            const float* d = c + n;
            for (int i = 0; i < count; ++i) {
                factor[i] += scales[j] * c[i];
                shift[i] += scales[j] * d[i];
            }
        }
        if (!touched) continue;
        for (int64_t t = 0; t < num_tokens; ++t) {
            float* to = y + t * y_stride + column - begin;
            for (int i = 0; i < count; ++i) to[i] += to[i] * factor[i] + shift[i];
        }
    }
}

// One row's inputs of `module` for the base alone: scaled, or copied when nothing scales them.
static inline void scale_inputs(const SyBank& bank, const int32_t* pages, const float* scales, int num_items,
                                int module, const uint16_t* x, uint16_t* out) {
    constexpr int kWidth = 64;
    const int k = bank.in_features[module];
    const int64_t skipped = 2 * static_cast<int64_t>(bank.out_features[module]);
    for (int first = 0; first < k; first += kWidth) {
        const int count = k - first < kWidth ? k - first : kWidth;
        float factor[kWidth] = {};
        bool touched = false;
        for (int j = 0; j < num_items; ++j) {
            if ((vector_bits(bank, pages[j], module) & SY_VECTOR_INPUT) == 0) continue;
            touched = true;
            const float* e = vector_place(bank, pages[j], module) + skipped + first;
            for (int i = 0; i < count; ++i) factor[i] += scales[j] * e[i];
        }
        if (!touched) {
            memcpy(out + first, x + first, static_cast<size_t>(count) * sizeof(uint16_t));
            continue;
        }
        for (int i = 0; i < count; ++i) {
            const float value = bf16_to_float(x[first + i]);
            out[first + i] = float_to_bf16(value + value * factor[i]);
        }
    }
}
