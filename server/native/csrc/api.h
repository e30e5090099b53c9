// What the shared library exports. Every call may be made from any thread; calls on one pool take
// turns. Nothing throws across this border except when memory runs out.
#pragma once

#include "abi.h"

enum SyStatus : int32_t {
    SY_OK = 0,
    SY_TOO_MANY_TOKENS = 1,
    SY_BAD_TOKEN = 2,
    SY_BAD_LENGTH = 3,
    SY_BAD_BLOCK = 4,
    SY_BAD_PAGE = 5,
};

#pragma GCC visibility push(default)
extern "C" {
void* sy_pool_create(int32_t num_threads);
void sy_pool_destroy(void* pool);

// Packing (pack.cpp).
void sy_pack_nf4(const uint8_t* codes, const float* absmax, int32_t n, int32_t k, int32_t kind, uint32_t* packed,
                 float* packed_absmax);
void sy_pack_bf16(const uint16_t* rows, int32_t n, int32_t k, uint32_t* packed);
void sy_pack_int8(const uint16_t* rows, int32_t n, int32_t k, int32_t kind, uint32_t* packed, float* scales);
void sy_unpack_nf4(const SyWeight* weight, uint16_t* rows);
void sy_embed(const SyWeight* weight, const int32_t* ids, int32_t num_ids, float* out);

// Single operations (ops.cpp).
void sy_linear(void* pool, const SyWeight* weight, const float* bias, const uint16_t* x, int64_t x_stride,
               int32_t num_rows, float* out, int64_t out_stride, uint16_t* out_bf16);
void sy_lora(void* pool, const SyBank* bank, const SyProjection* projection, const SyWork* work,
             const int32_t* query_starts, int32_t num_rows, const uint16_t* x, int64_t x_stride, float* y,
             int64_t y_stride);
void sy_attention(void* pool, const SyAttention* attention);
void sy_rms_norm(const float* x, const float* weight, int32_t num_rows, int32_t n, float eps, uint16_t* out);

// The whole step (llama.cpp). sy_llama_step returns a SyStatus.
void* sy_llama_create(const SyLlama* model, void* pool);
void sy_llama_destroy(void* llama);
int32_t sy_llama_step(void* llama, const SyBatch* batch, const SyBank* bank);
int64_t sy_llama_workspace_bytes(const void* llama);
int32_t sy_llama_phase_seconds(const void* llama, double* seconds, int32_t capacity);
}
#pragma GCC visibility pop
