// One step of a llama-family model over ragged tokens, decode and prefill mixed, as one call.
#pragma once

#include <memory>
#include <vector>

#include "attention_plan.h"
#include "lora_plan.h"
#include "projection.h"

enum Phase : int {
    kPhaseEmbed,
    kPhaseQkv,
    kPhaseRope,
    kPhaseAttention,
    kPhaseO,
    kPhaseAttentionResidual,
    kPhaseGateUp,
    kPhaseActivation,
    kPhaseDown,
    kPhaseMlpResidual,
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
    int check(const SyBatch& batch) const;
    void run(Worker& worker, const SyBatch& batch);
    void run_layer(Worker& worker, const SyBatch& batch, const SyLayer& layer, int index);
    void embed(Worker& worker, const SyBatch& batch);
    void rope_and_store(const SyBatch& batch, const SyLayer& layer, int index, const TokenBlock& block,
                        int first_head, int last_head);
    void add_sublayer(const TokenBlock& block, const SyProjection& p, const float* post_norm,
                      const float* next_norm);
    void head(Worker& worker, const SyBatch& batch);
    void finish_phase(Worker& worker, Phase phase);
    SyAttention attention_of(const SyBatch& batch, const SyLayer& layer, int index) const;

    template <typename T>
    T* take(int64_t elements);

    SyLlama m_;
    std::vector<SyLayer> layers_;
    Pool& pool_;
    std::vector<uint8_t> arena_;
    int64_t arena_used_ = 0;
    int64_t hidden_stride_, heads_stride_, inter_stride_, qkv_stride_, gate_up_stride_, sub_stride_;
    float *residual_, *qkv_, *gate_up_, *sub_;
    uint16_t *normed_, *queries_, *attended_, *activated_;
    AttentionPlan attention_;
    LoraPlan lora_;
    double phase_seconds_[kNumPhases] = {};
    uint64_t phase_start_ = 0;
};
