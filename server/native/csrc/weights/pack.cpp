// Packing at load time: from bitsandbytes' and torch's row-major layouts to tiles of 16 outputs.
#include <cmath>
#include <cstring>
#include <vector>

#include "api.h"
#include "weights/weights.h"

// absmax of flat block b (64 weights): row-major [n][k/64]. kind: NF4 or NF4_BYTES.
extern "C" void sy_pack_nf4(const uint8_t* codes, const float* absmax, int32_t n, int32_t k, int32_t kind,
                            uint32_t* packed, float* packed_absmax) {
    const int64_t blocks = k / kBlock;
    const int64_t tiles = (n + kLanes - 1) / kLanes;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        uint32_t* words = packed + tile * k * 2;
        memset(words, 0, static_cast<size_t>(k) * 2 * sizeof(uint32_t));
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t row = tile * kLanes + lane;
            const bool real = row < n;
            for (int64_t b = 0; b < blocks; ++b) {
                packed_absmax[(tile * blocks + b) * kLanes + lane] = real ? absmax[row * blocks + b] : 0.0f;
            }
            if (!real) continue;
            const uint8_t* from = codes + row * (k / 2);
            for (int64_t i = 0; i < k; ++i) {
                // bitsandbytes puts the first of two neighbours into the high nibble.
                const uint32_t code = i % 2 == 0 ? from[i / 2] >> 4 : from[i / 2] & 15u;
                const CodePlace place(lane, i, kind == SY_NF4_BYTES);
                words[place.dword] |= code << place.shift;
            }
        }
    }
}

extern "C" void sy_pack_bf16(const uint16_t* rows, int32_t n, int32_t k, uint32_t* packed) {
    const int64_t tiles = (n + kLanes - 1) / kLanes;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t row = tile * kLanes + lane;
            for (int64_t p = 0; p < k / 2; ++p) {
                uint32_t pair = 0;
                if (row < n) memcpy(&pair, rows + row * k + 2 * p, sizeof pair);
                packed[(tile * (k / 2) + p) * kLanes + lane] = pair;
            }
        }
    }
}

// Symmetric int8 per output: scale = max |w| / 127. kind: INT8 or INT8_BYTES; `packed` comes zeroed.
extern "C" void sy_pack_int8(const uint16_t* rows, int32_t n, int32_t k, int32_t kind, uint32_t* packed,
                             float* scales) {
    const SyWeight w = {.kind = kind, .n = n, .k = k};
    for (int64_t row = 0; row < n; ++row) {
        const uint16_t* from = rows + row * k;
        float largest = 0.0f;
        for (int i = 0; i < k; ++i) largest = std::fmax(largest, std::fabs(bf16_to_float(from[i])));
        scales[row] = largest / 127.0f;
        const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        uint32_t* words = packed + row / kLanes * tile_dwords(w);
        const int lane = static_cast<int>(row % kLanes);
        for (int i = 0; i < k; ++i) {
            const int value = static_cast<int>(std::lrintf(bf16_to_float(from[i]) * inverse));
            const int whole = value < -127 ? -127 : value > 127 ? 127 : value;
            if (kind == SY_INT8_BYTES) {
                words[i / 4 * kLanes + lane] |= static_cast<uint32_t>(whole + kByteOffset) << (8 * (i % 4));
                continue;
            }
            const uint32_t byte = static_cast<uint32_t>(whole) & 0xFFu;
            words[i / 4 * kLanes + 2 * (lane % 8) + i % 2] |= byte << (8 * (2 * (i % 4 / 2) + lane / 8));
        }
    }
}

// Row-major bf16 [n][k] of an NF4 weight through the very code that the projections use.
extern "C" void sy_unpack_nf4(const SyWeight* w, uint16_t* rows) {
    std::vector<uint32_t> unpacked(static_cast<size_t>(w->k) * 8);
    for (int64_t tile = 0; tile < num_tiles16(*w); ++tile) {
        unpack_nf4(*w, tile, unpacked.data());
        for (int lane = 0; lane < kLanes && tile * kLanes + lane < w->n; ++lane) {
            for (int64_t p = 0; p < w->k / 2; ++p) {
                memcpy(rows + (tile * kLanes + lane) * w->k + 2 * p, unpacked.data() + unpacked_dword(lane, p),
                       sizeof(uint32_t));
            }
        }
    }
}

// Rows `ids` of any weight, fp32 [num_ids][k].
extern "C" void sy_embed(const SyWeight* w, const int32_t* ids, int32_t num_ids, float* out) {
    for (int64_t i = 0; i < num_ids; ++i) weight_row(*w, ids[i], out + i * w->k);
}
