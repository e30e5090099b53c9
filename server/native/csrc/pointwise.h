// Row-wise small operations: norms, rotary embedding, gated activation. fp32 in, bf16 out where the
// result feeds a projection.
#pragma once

#include "abi.h"
#include "simd/simd.h"

static inline float sum_of_squares(const float* x, int n) {
    F16 acc = zero();
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const F16 v = load(x + i);
        acc = fma(v, v, acc);
    }
    if (i < n) {
        const F16 v = load_n(x + i, n - i);
        acc = fma(v, v, acc);
    }
    return reduce_add(acc);
}

// 1 / sqrt(mean(x^2) + eps)
static inline float rms_factor(const float* x, int n, float eps) {
    return 1.0f / __builtin_sqrtf(sum_of_squares(x, n) / static_cast<float>(n) + eps);
}

static inline void rms_norm_to_bf16(const float* x, const float* weight, int n, float eps, uint16_t* out) {
    const F16 factor = set1(rms_factor(x, n, eps));
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        store_bf16(out + i, mul(mul(load(x + i), factor), load(weight + i)));
    }
    if (i < n) {
        store_bf16_n(out + i, mul(mul(load_n(x + i, n - i), factor), load_n(weight + i, n - i)), n - i);
    }
}

static inline void rms_norm_in_place(float* x, const float* weight, int n, float eps) {
    const float factor = rms_factor(x, n, eps);
    for (int i = 0; i < n; ++i) x[i] = x[i] * factor * weight[i];
}

// Rotates the first rotary_dim elements of one head. cos and sin: rotary_dim / 2 values of this
// position. Interleaved: pairs (2i, 2i + 1) as in GLM; else (i, i + rotary_dim / 2) as in Llama.
static inline void rotate(float* x, const float* cos, const float* sin, int rotary_dim, bool interleaved) {
    const int half = rotary_dim / 2;
    const int stride = interleaved ? 2 : 1;
    const int offset = interleaved ? 1 : half;
    for (int i = 0; i < half; ++i) {
        const float a = x[i * stride], b = x[i * stride + offset];
        x[i * stride] = a * cos[i] - b * sin[i];
        x[i * stride + offset] = b * cos[i] + a * sin[i];
    }
}

static inline void to_bf16(const float* x, int n, uint16_t* out) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store_bf16(out + i, load(x + i));
    if (i < n) store_bf16_n(out + i, load_n(x + i, n - i), n - i);
}

static inline F16 activate(F16 gate, int activation) {
    if (activation == SY_GELU_TANH) {
        const F16 cube = mul(mul(gate, gate), gate);
        const F16 inner = mul(set1(0.7978845608028654f), fma(set1(0.044715f), cube, gate));
        return mul(mul(set1(0.5f), gate), add(set1(1.0f), tanh(inner)));
    }
    return divide(gate, add(set1(1.0f), exp(sub(zero(), gate))));
}

// out = act(gate) * up, bf16
static inline void gated_to_bf16(const float* gate, const float* up, int n, int activation, uint16_t* out) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        store_bf16(out + i, mul(activate(load(gate + i), activation), load(up + i)));
    }
    if (i < n) {
        const int rest = n - i;
        store_bf16_n(out + i, mul(activate(load_n(gate + i, rest), activation), load_n(up + i, rest)), rest);
    }
}
