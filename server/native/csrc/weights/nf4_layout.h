// Where each 4-bit code of a tile of 16 outputs lies: eight codes a dword, [k/64][8 lines][16 lanes].
//
// Quads (AVX-512, quads.h): a block's lines are [4 quads][2 halves]; quad q is outputs q, q + 4, q + 8,
// q + 12. Nibble i (from the low end) of word w is output 4 * (w / 8) + q at k = 32 * half + 8 * i + w % 8.
//
// Pairs (AVX2, AMX): line l is k = 8l .. 8l+7 of the block. Nibble i of lane j is output 8 * (i % 2) + j / 2
// at k = 8l + 2 * (i / 2) + j % 2: the order in which two table lookups concatenate to bf16 pairs.
//
// Bytes (NF4_BYTES, byte_tiles.h): line l is k = 8l .. 8l+7. Byte i of lane j is output j at k = 8l + i in
// its low nibble and at k = 8l + 4 + i in its high one.
#pragma once

#include <cstdint>

#if defined(SY_AVX512) && !defined(SY_AMX)
#define SY_QUADS 1
#endif

constexpr int kBlock = 64;  // weights per absmax

// The dword in the tile, and the shift in it, of output `lane` at input k.
struct CodePlace {
    int64_t dword;
    int shift;
    CodePlace(int lane, int64_t k, bool as_bytes) : CodePlace(lane, k) {
        if (!as_bytes) return;
        dword = k / 8 * 16 + lane;
        shift = static_cast<int>(8 * (k % 4) + 4 * (k % 8 / 4));
    }
    CodePlace(int lane, int64_t k) {
        const int i = static_cast<int>(k % kBlock);
#if defined(SY_QUADS)
        const int word = 8 * (lane / 4) + i % 8;
        dword = k / kBlock * 128 + (2 * (lane % 4) + i / 32) * 16 + word / 2;
        shift = 16 * (word % 2) + 4 * (i % 32 / 8);
#else
        dword = k / 8 * 16 + 2 * (lane % 8) + i % 2;
        shift = 4 * (2 * (i % 8 / 2) + lane / 8);
#endif
    }
};
