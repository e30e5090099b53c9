// The plain C face of the library, mirrored field by field by ctypes structures in abi.py.
// Pointers are borrowed: the Python side keeps the tensors alive. bf16 is uint16_t here.
#pragma once

#include <cstdint>

enum SyKind : int32_t { SY_NONE = 0, SY_NF4 = 1, SY_BF16 = 2, SY_INT8 = 3, SY_ROWS_BF16 = 4, SY_NF4_BYTES = 5, SY_INT8_BYTES = 6 };
enum SyActivation : int32_t { SY_SILU = 0, SY_GELU_TANH = 1 };

// One weight matrix [n, k] in the packed layout of its kind (see weights.h).
// scales: NF4 fp32 absmax [n/16, k/64, 16]; INT8 fp32 per output [n], or [n/16, 16] as bytes; else null.
// code: 16 floats.
struct SyWeight {
    int32_t kind, n, k;
    float code_step;  // NF4_BYTES: what is multiplied is round(code / code_step) * code_step * absmax
    const void* data;
    const float* scales;
    const float* code;
};

// A run of columns of a packed projection that is one adapted module of the bank.
struct SySegment {
    int32_t module, column, columns, reserved;
};

struct SyProjection {
    SyWeight weight;
    const float* bias;  // [n] or null
    SySegment segments[3];
    int32_t num_segments, reserved;
};

struct SyLayer {
    SyProjection qkv, o, gate_up, down;
    const float *attn_norm, *mlp_norm;            // [hidden]
    const float *post_attn_norm, *post_mlp_norm;  // [hidden] or null: norm of a sublayer's output
    const float *q_norm, *k_norm;                 // [head_dim] or null
    const float *cos, *sin;                       // [max_positions, rotary_dim / 2]
    int32_t window, reserved;                     // keys seen, 0 = all
};

struct SyLlama {
    int32_t num_layers, hidden, intermediate, num_heads, num_kv_heads, head_dim, vocab;
    int32_t rotary_dim, rotary_interleaved, activation, max_positions;
    int32_t block_size, num_blocks, max_tokens;
    float norm_eps, embedding_scale, residual_scale, attention_scale, attention_softcap;
    float logits_scale, logits_softcap;  // logits = cap(head(x) * logits_scale)
    SyWeight embedding, head;
    const float* final_norm;
    const SyLayer* layers;
    uint16_t *keys, *values;  // [layers, blocks, block_size, kv_heads, head_dim]
};

// Adapter pages: 8 rank components of one adapter for all modules (see lora.h).
struct SyBank {
    const uint16_t* pages;
    int64_t page_elements;
    int32_t num_pages, num_modules;
    const int64_t *a_offsets, *b_offsets;  // [num_modules], in elements
    const int32_t *in_features, *out_features;
    const float* module_scales;  // [num_pages, num_modules]; 0 = module absent
    const uint8_t* vector_flags;  // [num_pages, num_vectors], SyVectorBits; linears come first
    int64_t num_vectors;
};

// Work triples in compressed rows: row r applies pages[offsets[r] .. offsets[r + 1]).
struct SyWork {
    const int32_t *offsets, *pages;
    const float* scales;
};

struct SyBatch {
    int32_t num_rows, num_tokens, num_samples, max_blocks;
    const int32_t* token_ids;     // [num_tokens]
    const int32_t* query_starts;  // [num_rows + 1]
    const int32_t* seq_lens;      // [num_rows], this step's tokens included
    const int32_t* block_tables;  // [num_rows, max_blocks]
    const int32_t* sample_tokens;  // [num_samples], token indices whose logits are wanted
    float* logits;                 // [num_samples, logits_stride]
    int64_t logits_stride;
    SyWork work;
    const int32_t* embedding_rows;  // [num_tokens] row of `embeddings` instead of the token's, or -1; or null
    const float* embeddings;        // [rows, hidden], with every scale applied
    uint16_t* sample_hidden;        // [num_samples, hidden], what the head gets; or null
    int32_t has_vectors, reserved;  // whether any page of `work` is a vector page
};

struct SyAttention {
    const uint16_t* queries;  // [num_tokens, num_heads, head_dim], tokens token_stride elements apart
    uint16_t* output;         // the same shape and stride
    int64_t token_stride;
    const uint16_t *keys, *values;  // one layer: [num_blocks, block_size, kv_heads, head_dim]
    const int32_t *query_starts, *seq_lens, *block_tables;
    int32_t num_rows, max_blocks, num_heads, num_kv_heads, head_dim, block_size, window, reserved;
    float scale, softcap;
};
