// One step of a llama-family model over ragged tokens, decode and prefill mixed, as one call.
#pragma once

#include <vector>

#include "attention/attention_plan.h"
#include "lora/lora_plan.h"
#include "weights/projection.h"

enum Phase : int {
    kPhaseEmbed,
    kPhaseQkvShrink,
    kPhaseQkv,
    kPhaseAttention,
    kPhaseOShrink,
    kPhaseO,
    kPhaseMlpNorm,
    kPhaseGateUpShrink,
    kPhaseGateUp,
    kPhaseDownShrink,
    kPhaseDown,
    kPhaseNextNorm,
    kPhaseHead,
    kNumPhases,
};

class Llama {
   public:
    Llama(const SyLlama& model, Pool& pool);

    // 0, or a code of sy_llama_step in api.h. Writes KV of all tokens and logits of the samples.
    int step(const SyBatch& batch, const SyBank* bank);

    int64_t workspace_bytes() const { return static_cast<int64_t>(arena_.size()); }
    // Seconds spent per phase by the calling thread since creation.
    const double* phase_seconds() const { return phase_seconds_; }

   private:
    int check(const SyBatch& batch, const SyBank* bank) const;
    int64_t byte_room_bytes(int64_t num_tokens) const;
    void place_tokens(const SyBatch& batch);
    void run(Worker& worker, const SyBatch& batch);
    void run_layer(Worker& worker, const SyBatch& batch, int index);
    void embed(Worker& worker, const SyBatch& batch);
    void rotate_and_store(const SyLayer& layer, int index, int first_head, int num_heads, int num_tokens,
                          float* sums, int64_t stride);
    void run_sublayer(Worker& worker, const ProjectionCall& call, const float* post_norm, Phase phase);
    void norm_rows(Worker& worker, int num_tokens, const float* post_norm, const float* next_norm);
    void head(Worker& worker, const SyBatch& batch);
    void finish_phase(const Worker& worker, Phase phase);
    SyAttention attention_of(const SyBatch& batch, const SyLayer& layer, int index) const;

    template <typename T>
    T* take(int64_t elements);

    SyLlama m_;
    std::vector<SyLayer> layers_;
    Pool& pool_;
    std::vector<uint8_t> arena_;
    int64_t arena_used_ = 0;
    int64_t hidden_stride_, heads_stride_, inter_stride_, residual_stride_;
    ColumnUnit qkv_unit_, gate_up_unit_;
    float *residual_, *sublayer_;
    uint16_t *normed_, *queries_, *attended_, *activated_;
    uint16_t* scaled_;  // inputs of o or down as the base gets them, where an adapter scales them
    uint8_t* byte_room_;  // inputs of the running projection as int8, where its weights are multiplied so
    int32_t *positions_, *slots_;  // of each token: in its sequence, in a layer's cache
    AttentionPlan attention_;
    LoraPlan lora_;
    double phase_seconds_[kNumPhases] = {};
    uint64_t phase_start_ = 0;
};
