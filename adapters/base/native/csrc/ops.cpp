// The exported face: single operations for the generic way through a model, and handles.
#include "api.h"
#include "llama.h"
#include "pointwise.h"

extern "C" void* sy_pool_create(int32_t num_threads) { return new Pool(num_threads); }
extern "C" void sy_pool_destroy(void* pool) { delete static_cast<Pool*>(pool); }

// out fp32 [num_rows][out_stride] has room for n rounded up to 16; out_bf16 [num_rows][n] may be null.
extern "C" void sy_linear(void* pool, const SyWeight* weight, const float* bias, const uint16_t* x,
                          int64_t x_stride, int32_t num_rows, float* out, int64_t out_stride,
                          uint16_t* out_bf16) {
    SyProjection p = {};
    p.weight = *weight;
    static_cast<Pool*>(pool)->run([&](Worker& worker) {
        project(worker, p, x, x_stride, num_rows, out, out_stride, nullptr, [&](int tile) {
            const int begin = tile * kTileColumns;
            const int end = begin + kTileColumns < weight->n ? begin + kTileColumns : weight->n;
            for (int m = 0; m < num_rows; ++m) {
                float* row = out + m * out_stride;
                if (bias != nullptr) {
                    for (int i = begin; i < end; ++i) row[i] += bias[i];
                }
                if (out_bf16 != nullptr) {
                    to_bf16(row + begin, end - begin, out_bf16 + static_cast<int64_t>(m) * weight->n + begin);
                }
            }
        });
    });
}

extern "C" void sy_lora(void* pool, const SyBank* bank, const SyProjection* projection, const SyWork* work,
                        const int32_t* query_starts, int32_t num_rows, const uint16_t* x, int64_t x_stride,
                        float* y, int64_t y_stride) {
    LoraPlan plan;
    plan.prepare(bank, *work, query_starts, num_rows);
    static_cast<Pool*>(pool)->run([&](Worker& worker) {
        worker.for_each(plan.num_shrinks() * projection->num_segments, 1,
                        [&](int i) { plan.run_shrink(i, *projection, x, x_stride); });
        const int num_blocks = static_cast<int>(plan.blocks().size());
        worker.for_each(num_blocks * projection->num_segments, 1, [&](int i) {
            const SySegment& segment = projection->segments[i / num_blocks];
            plan.run_expand(plan.blocks()[static_cast<size_t>(i % num_blocks)], *projection, segment.column,
                            segment.column + segment.columns, y, y_stride);
        });
    });
}

extern "C" void sy_attention(void* pool, const SyAttention* attention) {
    AttentionPlan plan;
    Pool& threads = *static_cast<Pool*>(pool);
    plan.prepare(*attention, threads.num_threads());
    threads.run([&](Worker& worker) { plan.run(worker, *attention); });
}

extern "C" void sy_rms_norm(const float* x, const float* weight, int32_t num_rows, int32_t n, float eps,
                            uint16_t* out) {
    for (int64_t m = 0; m < num_rows; ++m) rms_norm_to_bf16(x + m * n, weight, n, eps, out + m * n);
}

extern "C" void* sy_llama_create(const SyLlama* model, void* pool) {
    return new Llama(*model, *static_cast<Pool*>(pool));
}
extern "C" void sy_llama_destroy(void* llama) { delete static_cast<Llama*>(llama); }
extern "C" int32_t sy_llama_step(void* llama, const SyBatch* batch, const SyBank* bank) {
    return static_cast<Llama*>(llama)->step(*batch, bank);
}
extern "C" int64_t sy_llama_workspace_bytes(const void* llama) {
    return static_cast<const Llama*>(llama)->workspace_bytes();
}
extern "C" int32_t sy_llama_phase_seconds(const void* llama, double* seconds, int32_t capacity) {
    for (int i = 0; i < kNumPhases && i < capacity; ++i) {
        seconds[i] = static_cast<const Llama*>(llama)->phase_seconds()[i];
    }
    return kNumPhases;
}
