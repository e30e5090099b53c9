// Activations as int8, for products with byte weights (byte_tiles.h): each row in blocks of 64 inputs, a
// block in steps of its own largest value. A row's bytes depend on that row alone.
//
// Weights are unsigned, offset by 128. A block's sum starts at -128 * (sum of its bytes), which undoes
// the offset whatever the weights are.
#pragma once

#include "weights/nf4_layout.h"
#include "simd/simd.h"

constexpr int kByteOffset = 128;

// Rows in one piece of memory: bytes [row][stride], then fp32 steps and int32 starts [row][block].
struct ByteRows {
    int8_t* bytes;
    float* steps;
    int32_t* starts;
    int64_t stride;
    int num_blocks;

    ByteRows(uint8_t* room, int64_t num_rows, int k)
        : bytes(reinterpret_cast<int8_t*>(room)),
          steps(reinterpret_cast<float*>(room + num_rows * row_bytes(k))),
          starts(reinterpret_cast<int32_t*>(steps + num_rows * blocks_of(k))),
          stride(row_bytes(k)),
          num_blocks(blocks_of(k)) {}

    static int blocks_of(int k) { return (k + kBlock - 1) / kBlock; }
    // A line more than the bytes need: at a power of two rows would share a few sets of the cache.
    static int64_t row_bytes(int k) { return (blocks_of(k) + 1) * static_cast<int64_t>(kBlock); }
    static int64_t room_bytes(int64_t num_rows, int k) {
        const int64_t numbers = blocks_of(k) * static_cast<int64_t>(sizeof(float) + sizeof(int32_t));
        return round_up(num_rows * (row_bytes(k) + numbers), kBlock);
    }

    ByteRows from_row(int64_t row) const {
        ByteRows rest = *this;
        rest.bytes += row * stride;
        rest.steps += row * num_blocks;
        rest.starts += row * num_blocks;
        return rest;
    }
    // Four neighbouring inputs a dword.
    const int32_t* quads() const { return reinterpret_cast<const int32_t*>(bytes); }
};

#if defined(SY_AVX512)
// Row `row` of `to` from bf16 x [k], zeros behind its end.
static inline void round_to_bytes(const ByteRows& to, int64_t row, const uint16_t* x, int k) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    for (int block = 0; block < to.num_blocks; ++block) {
        const int left = k - block * kBlock;
        const P16 low = load_bf16_32_n(x + block * kBlock, left);
        const P16 high = left > 32 ? load_bf16_32_n(x + block * kBlock + 32, left - 32) : _mm512_setzero_si512();
        const F16 parts[4] = {even_floats(low), odd_floats(low), even_floats(high), odd_floats(high)};
        F16 largest = zero();
        for (const F16& part : parts) largest = max(largest, (F16)_mm512_and_si512((__m512i)part, magnitude));
        const float peak = reduce_max(largest);
        const F16 inverse = set1(peak > 0.0f ? 127.0f / peak : 0.0f);
        __m512i words[4], sum = _mm512_setzero_si512();
        for (int i = 0; i < 4; ++i) {
            words[i] = _mm512_cvtps_epi32(mul(parts[i], inverse));
            sum = _mm512_add_epi32(sum, words[i]);
        }
        // Lane i of words[0], words[1] is input 2 * i, 2 * i + 1; of words[2], words[3] 32 more.
        const __m128i even = _mm512_cvtsepi32_epi8(words[0]), odd = _mm512_cvtsepi32_epi8(words[1]);
        const __m128i even_high = _mm512_cvtsepi32_epi8(words[2]), odd_high = _mm512_cvtsepi32_epi8(words[3]);
        __m128i* out = reinterpret_cast<__m128i*>(to.bytes + row * to.stride + block * kBlock);
        _mm_store_si128(out, _mm_unpacklo_epi8(even, odd));
        _mm_store_si128(out + 1, _mm_unpackhi_epi8(even, odd));
        _mm_store_si128(out + 2, _mm_unpacklo_epi8(even_high, odd_high));
        _mm_store_si128(out + 3, _mm_unpackhi_epi8(even_high, odd_high));
        to.steps[row * to.num_blocks + block] = peak / 127.0f;
        to.starts[row * to.num_blocks + block] = -kByteOffset * _mm512_reduce_add_epi32(sum);
    }
}
#else
// Packing refuses byte weights here.
static inline void round_to_bytes(const ByteRows&, int64_t, const uint16_t*, int) {}
#endif
