// The vector vocabulary that every kernel is written in, so that one source serves each
// instruction set. The library is built once per instruction set (see build.py).
//
//   F16   sixteen fp32 lanes
//   P16   sixteen 32-bit lanes, each a pair of bf16 (element 0 in the low half)
//   dot   acc + a.even * b.even + a.odd * b.odd per lane, fp32 accumulation
//   round_pairs(low, high)  bf16 of the 32 floats in order: two neighbours make one pair
//
// Everything here keeps a fixed order of operations and contraction is off, so a row's bits never
// depend on which template instance computed it.
#pragma once

#if defined(SY_AVX512)
#include "simd/simd_avx512.h"
#else
#include "simd/simd_avx2.h"
#endif

#define SY_UNROLL _Pragma("GCC unroll 32")

constexpr int kLanes = 16;

static inline int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// e^x to about 2 ulp (Cephes' expf polynomial); 0 below -87, which covers -inf.
static inline F16 exp(F16 x) {
    const F16 floor = set1(-87.0f);
    const F16 safe = min(max(x, floor), set1(88.0f));
    const F16 n = round_nearest(mul(safe, set1(1.44269504088896341f)));
    F16 r = fma(n, set1(-0.693359375f), safe);
    r = fma(n, set1(2.12194440e-4f), r);
    F16 p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, mul(r, r), add(r, set1(1.0f)));
    return where_less(x, floor, zero(), scale_by_power_of_two(p, n));
}

static inline F16 tanh(F16 x) {
    // 1 - 2 / (e^2x + 1); saturates properly at both ends.
    const F16 e = exp(add(x, x));
    return sub(set1(1.0f), divide(set1(2.0f), add(e, set1(1.0f))));
}

static inline float bf16_to_float(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t float_to_bf16(float value) {
    uint16_t word;
    store_bf16_n(&word, set1(value), 1);
    return word;
}
