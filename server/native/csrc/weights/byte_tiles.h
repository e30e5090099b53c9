// Products of byte weights and int8 activations: a vpdpbusd is 16 outputs by 4 inputs, twice the
// arithmetic of a bf16 dot product. A block of 64 inputs is summed in int32, exactly; then, in fp32,
//   sum[row][output] += block sum * (weight step[output, block] * activation step[row, block])
// in ascending blocks: one order, whatever the number of rows.
//
//   NF4_BYTES   codes as NF4 has them. A code becomes the byte round(code / code_step) + 128 by one
//               vpshufb of a 16-entry table; its step is code_step * absmax.
//   INT8_BYTES  bytes + 128, a step for each output.
// Where they lie: nf4_layout.h and weights.h.
#pragma once

#include "abi.h"
#include "weights/byte_rows.h"
#include "simd/tile.h"

static inline bool multiplies_bytes(const SyWeight& w) { return w.kind == SY_NF4_BYTES || w.kind == SY_INT8_BYTES; }

// As linear_tile in weights.h, for byte weights: whole sums, scales applied.
void byte_linear_tile(const SyWeight& w, int tile32, const ByteRows& x, int num_rows, float* out, int64_t out_stride,
                      Prefetch& prefetch);
