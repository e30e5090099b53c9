// Sixteen fp32 lanes and sixteen bf16 pairs on AVX512-BF16. See simd.h for what each name means.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

using F16 = __m512;
using P16 = __m512i;

static inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

static inline F16 zero() { return _mm512_setzero_ps(); }
static inline F16 set1(float v) { return _mm512_set1_ps(v); }
static inline F16 load(const float* p) { return _mm512_loadu_ps(p); }
static inline F16 load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
static inline void store(float* p, F16 v) { _mm512_storeu_ps(p, v); }
static inline void store_n(float* p, F16 v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
static inline F16 add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
static inline F16 sub(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
static inline F16 mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
static inline F16 divide(F16 a, F16 b) { return _mm512_div_ps(a, b); }
static inline F16 fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
static inline F16 max(F16 a, F16 b) { return _mm512_max_ps(a, b); }
static inline F16 min(F16 a, F16 b) { return _mm512_min_ps(a, b); }
static inline F16 round_nearest(F16 a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline F16 scale_by_power_of_two(F16 a, F16 exponent) { return _mm512_scalef_ps(a, exponent); }
static inline F16 where_less(F16 a, F16 b, F16 yes, F16 no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
// Lane i keeps v when low <= i < high, else becomes `fill`.
static inline F16 keep_lanes(F16 v, int low, int high, F16 fill) {
    const unsigned upper = high >= 16 ? 0xFFFFu : (1u << (high < 0 ? 0 : high)) - 1u;
    const unsigned lower = low >= 16 ? 0xFFFFu : (1u << (low < 0 ? 0 : low)) - 1u;
    return _mm512_mask_blend_ps(static_cast<__mmask16>(upper & ~lower), fill, v);
}
static inline float reduce_add(F16 v) { return _mm512_reduce_add_ps(v); }
static inline float reduce_max(F16 v) { return _mm512_reduce_max_ps(v); }

static inline P16 load_pairs(const uint32_t* p) { return _mm512_loadu_si512(p); }
static inline void store_pairs(uint32_t* p, P16 v) { _mm512_storeu_si512(p, v); }
static inline P16 broadcast_pair(uint32_t pair) { return _mm512_set1_epi32(static_cast<int>(pair)); }
static inline F16 dot(F16 acc, P16 a, P16 b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
static inline P16 round_pairs(F16 low, F16 high) { return (P16)_mm512_cvtne2ps_pbh(high, low); }

static inline P16 load_bf16_32(const uint16_t* p) { return _mm512_loadu_si512(p); }
static inline P16 load_bf16_32_n(const uint16_t* p, int n) {
    return _mm512_maskz_loadu_epi16(n >= 32 ? 0xFFFFFFFFu : (1u << n) - 1u, p);
}
static inline F16 even_floats(P16 v) { return (F16)_mm512_slli_epi32(v, 16); }
static inline F16 odd_floats(P16 v) {
    return (F16)_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)));
}
static inline void interleave(F16 even, F16 odd, F16* low, F16* high) {
    const __m512i first =
        _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    *low = _mm512_permutex2var_ps(even, first, odd);
    *high = _mm512_permutex2var_ps(even, second, odd);
}
static inline F16 load_bf16(const uint16_t* p) {
    return (F16)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
}
static inline F16 load_bf16_n(const uint16_t* p, int n) {
    return (F16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p)),
                                  16);
}
static inline void store_bf16(uint16_t* p, F16 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
}
static inline void store_bf16_n(uint16_t* p, F16 v, int n) {
    _mm256_mask_storeu_epi16(p, first_lanes(n), (__m256i)_mm512_cvtneps_pbh(v));
}

// Words of two rows (32 each) to pairs (row0[i], row1[i]): lanes 0..15 in *low, 16..31 in *high.
static inline void pair_rows(P16 row0, P16 row1, P16* low, P16* high) {
    const P16 a = _mm512_unpacklo_epi16(row0, row1);
    const P16 b = _mm512_unpackhi_epi16(row0, row1);
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    *low = _mm512_permutex2var_epi64(a, first, b);
    *high = _mm512_permutex2var_epi64(a, second, b);
}

// 16 rows of 16 lanes, rows[i][j] -> rows[j][i].
static inline void transpose(P16 rows[16]) {
    P16 t[16];
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
        rows[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        rows[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        rows[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        rows[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xDD);
        t[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xDD);
    }
    for (int i = 0; i < 8; ++i) {
        rows[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        rows[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xDD);
    }
}

// The 16-entry code table of NF4 or FP4, and how nibbles of 16 dwords become weights.
struct CodeTable {
    F16 entries;
    explicit CodeTable(const float* code) : entries(load(code)) {}
    // vpermps reads only the low four bits of each index, so no mask is needed.
    template <int kShift>
    F16 lookup(P16 nibbles) const {
        return _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, kShift), entries);
    }
};
template <int kByte>
static inline F16 signed_byte(P16 v) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * kByte), 24));
}
// Scales of outputs 0..7 (8..15) with each value twice: one per element of a bf16 pair.
static inline F16 duplicate_low(F16 v) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), v);
}
static inline F16 duplicate_high(F16 v) {
    return _mm512_permutexvar_ps(
        _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15), v);
}
