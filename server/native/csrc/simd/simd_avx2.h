// Sixteen fp32 lanes and sixteen bf16 pairs on AVX2+FMA: each is two 256-bit halves. bf16 products
// are formed in fp32. See simd.h for what each name means.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

struct F16 {
    __m256 lo, hi;
};
struct P16 {
    __m256i lo, hi;
};

static inline F16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline F16 set1(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
static inline F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store(float* p, F16 v) {
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
static inline F16 load_n(const float* p, int n) {
    float lanes[16] = {};
    memcpy(lanes, p, static_cast<size_t>(n) * sizeof(float));
    return load(lanes);
}
static inline void store_n(float* p, F16 v, int n) {
    float lanes[16];
    store(lanes, v);
    memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}
static inline F16 add(F16 a, F16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
static inline F16 sub(F16 a, F16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
static inline F16 mul(F16 a, F16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
static inline F16 divide(F16 a, F16 b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline F16 fma(F16 a, F16 b, F16 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline F16 max(F16 a, F16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
static inline F16 min(F16 a, F16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
static inline F16 round_nearest(F16 a) {
    return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline __m256 power_of_two(__m256 exponent) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(exponent), _mm256_set1_epi32(127)), 23));
}
// Right for exponents in [-126, 127], which is what exp() gives.
static inline F16 scale_by_power_of_two(F16 a, F16 exponent) {
    return {_mm256_mul_ps(a.lo, power_of_two(exponent.lo)),
            _mm256_mul_ps(a.hi, power_of_two(exponent.hi))};
}
static inline F16 where_less(F16 a, F16 b, F16 yes, F16 no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
static inline F16 keep_lanes(F16 v, int low, int high, F16 fill) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i next = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
    const auto inside = [&](__m256i i) {
        return _mm256_castsi256_ps(
            _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(low), i),
                                _mm256_cmpgt_epi32(_mm256_set1_epi32(high), i)));
    };
    return {_mm256_blendv_ps(fill.lo, v.lo, inside(lane)), _mm256_blendv_ps(fill.hi, v.hi, inside(next))};
}
static inline float reduce_add(F16 v) {
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_add_ps(v.lo, v.hi));
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}
static inline float reduce_max(F16 v) {
    float lanes[8];
    _mm256_storeu_ps(lanes, _mm256_max_ps(v.lo, v.hi));
    float best = lanes[0];
    for (int i = 1; i < 8; ++i) best = lanes[i] > best ? lanes[i] : best;
    return best;
}

static inline P16 load_pairs(const uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
static inline void store_pairs(uint32_t* p, P16 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), v.hi);
}
static inline P16 broadcast_pair(uint32_t pair) {
    const __m256i v = _mm256_set1_epi32(static_cast<int>(pair));
    return {v, v};
}
static inline F16 even_floats(P16 v) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(v.lo, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(v.hi, 16))};
}
static inline F16 odd_floats(P16 v) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(v.lo, mask)),
            _mm256_castsi256_ps(_mm256_and_si256(v.hi, mask))};
}
static inline F16 dot(F16 acc, P16 a, P16 b) {
    return fma(odd_floats(a), odd_floats(b), fma(even_floats(a), even_floats(b), acc));
}
// fp32 to bf16 in the low half of each dword, round to nearest even, NaN stays NaN.
static inline __m256i rounded_words(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(
        _mm256_blendv_epi8(up, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan), 16);
}
static inline __m256i bf16_words(F16 v) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded_words(v.lo), rounded_words(v.hi)), 0xD8);
}
static inline P16 round_pairs(F16 low, F16 high) { return {bf16_words(low), bf16_words(high)}; }

static inline P16 load_bf16_32(const uint16_t* p) {
    return load_pairs(reinterpret_cast<const uint32_t*>(p));
}
static inline P16 load_bf16_32_n(const uint16_t* p, int n) {
    uint16_t words[32] = {};
    memcpy(words, p, static_cast<size_t>(n < 32 ? n : 32) * sizeof(uint16_t));
    return load_bf16_32(words);
}
static inline void interleave(F16 even, F16 odd, F16* low, F16* high) {
    const auto merge = [](__m256 e, __m256 o) {
        const __m256 a = _mm256_unpacklo_ps(e, o), b = _mm256_unpackhi_ps(e, o);
        return F16{_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)};
    };
    *low = merge(even.lo, odd.lo);
    *high = merge(even.hi, odd.hi);
}
static inline F16 load_bf16(const uint16_t* p) {
    const auto widen = [](const uint16_t* q) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(
            _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q))), 16));
    };
    return {widen(p), widen(p + 8)};
}
static inline F16 load_bf16_n(const uint16_t* p, int n) {
    uint16_t words[16] = {};
    memcpy(words, p, static_cast<size_t>(n) * sizeof(uint16_t));
    return load_bf16(words);
}
static inline void store_bf16(uint16_t* p, F16 v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bf16_words(v));
}
static inline void store_bf16_n(uint16_t* p, F16 v, int n) {
    uint16_t words[16];
    store_bf16(words, v);
    memcpy(p, words, static_cast<size_t>(n) * sizeof(uint16_t));
}

static inline void pair_rows(P16 row0, P16 row1, P16* low, P16* high) {
    const auto merge = [](__m256i r0, __m256i r1) {
        const __m256i a = _mm256_unpacklo_epi16(r0, r1), b = _mm256_unpackhi_epi16(r0, r1);
        return P16{_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)};
    };
    *low = merge(row0.lo, row1.lo);
    *high = merge(row0.hi, row1.hi);
}
static inline void transpose(P16 rows[16]) {
    uint32_t from[16][16], to[16][16];
    for (int i = 0; i < 16; ++i) store_pairs(from[i], rows[i]);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) to[j][i] = from[i][j];
    for (int i = 0; i < 16; ++i) rows[i] = load_pairs(to[i]);
}

struct CodeTable {
    __m256 low, high;
    explicit CodeTable(const float* code) : low(_mm256_loadu_ps(code)), high(_mm256_loadu_ps(code + 8)) {}
    // vpermps reads three bits here; bit 3 of the index, moved to the sign, picks the half.
    __m256 one(__m256i index) const {
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                                _mm256_permutevar8x32_ps(high, index),
                                _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
    }
    template <int kShift>
    F16 lookup(P16 nibbles) const {
        return {one(_mm256_srli_epi32(nibbles.lo, kShift)), one(_mm256_srli_epi32(nibbles.hi, kShift))};
    }
};
template <int kByte>
static inline F16 signed_byte(P16 v) {
    const auto half = [](__m256i x) {
        return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * kByte), 24));
    };
    return {half(v.lo), half(v.hi)};
}
static inline F16 duplicate(__m256 v) {
    return {_mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
            _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}
static inline F16 duplicate_low(F16 v) { return duplicate(v.lo); }
static inline F16 duplicate_high(F16 v) { return duplicate(v.hi); }
