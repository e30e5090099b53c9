// The exported face: single operations for the generic way through a model, and handles.
#include <cstring>
#include <vector>

#include "api.h"
#include "llama.h"
#include "pointwise.h"

extern "C" void* sy_pool_create(int32_t num_threads) { return new Pool(num_threads); }
extern "C" void sy_pool_destroy(void* pool) { delete static_cast<Pool*>(pool); }

// Either out_bf16 [num_rows][n] or, when it is null, out fp32 [num_rows][out_stride].
extern "C" void sy_linear(void* pool, const SyWeight* weight, const float* bias, const uint16_t* x,
                          int64_t x_stride, int32_t num_rows, float* out, int64_t out_stride,
                          uint16_t* out_bf16) {
    SyProjection p = {};
    p.weight = *weight;
    p.bias = bias;
    std::vector<uint8_t> byte_room;
    if (multiplies_bytes(*weight)) byte_room.resize(static_cast<size_t>(ByteRows::room_bytes(num_rows, weight->k)));
    const ProjectionCall call = {p, x, x_stride, num_rows, nullptr, nullptr, nullptr, byte_room.data()};
    static_cast<Pool*>(pool)->run([&](Worker& worker) {
        run_product(worker, call, tile_units(*weight), [&](int, int column, const float* sums, int64_t stride) {
            const int columns = weight->n - column < kTileColumns ? weight->n - column : kTileColumns;
            for (int64_t m = 0; m < num_rows; ++m) {
                if (out_bf16 != nullptr) {
                    to_bf16(sums + m * stride, columns, out_bf16 + m * weight->n + column);
                } else {
                    memcpy(out + m * out_stride + column, sums + m * stride,
                           static_cast<size_t>(columns) * sizeof(float));
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
    const ProjectionCall call = {*projection, x, x_stride, query_starts[num_rows], &plan, nullptr};
    if (plan.is_empty()) return;
    static_cast<Pool*>(pool)->run([&](Worker& worker) {
        run_shrinks(worker, call);
        worker.for_each(num_tiles32(projection->weight), [&](int tile) {
            const int begin = tile * kTileColumns;
            const int end = begin + kTileColumns < projection->weight.n ? begin + kTileColumns : projection->weight.n;
            plan.run_expand(*projection, begin, end, y + begin, y_stride);
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
