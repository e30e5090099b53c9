#include "llama.h"

#include <time.h>

#include <cstring>

#include "api.h"
#include "pointwise.h"

namespace {

// bf16 rows are padded by one cache line: with a power-of-two stride, a block's rows would
// all fall into the same set of the first-level cache.
constexpr int64_t kRowPadding = 32;
constexpr int64_t kArenaAlignment = 64;

uint64_t now_nanoseconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

// Into how many parts to cut `units` of each block, so that all threads have work.
int num_parts(int num_blocks, int num_threads, int units) {
    const int wanted = (4 * num_threads + num_blocks - 1) / (num_blocks > 0 ? num_blocks : 1);
    return wanted < 1 ? 1 : wanted > units ? units : wanted;
}

void add_bias(const float* bias, const TokenBlock& block, int begin, int end, float* out, int64_t stride) {
    if (bias == nullptr) return;
    for (int t = block.first; t < block.first + block.count; ++t) {
        for (int i = begin; i < end; ++i) out[t * stride + i] += bias[i];
    }
}

}  // namespace

template <typename T>
T* Llama::take(int64_t elements) {
    const int64_t offset = arena_used_;
    arena_used_ += round_up(elements * static_cast<int64_t>(sizeof(T)), kArenaAlignment);
    if (arena_.empty()) return nullptr;
    const int64_t misaligned = reinterpret_cast<intptr_t>(arena_.data()) % kArenaAlignment;
    return reinterpret_cast<T*>(arena_.data() + offset + (kArenaAlignment - misaligned) % kArenaAlignment);
}

Llama::Llama(const SyLlama& model, Pool& pool)
    : m_(model), layers_(model.layers, model.layers + model.num_layers), pool_(pool) {
    hidden_stride_ = round_up(m_.hidden, 16) + kRowPadding;
    heads_stride_ = static_cast<int64_t>(m_.num_heads) * m_.head_dim + kRowPadding;
    inter_stride_ = round_up(m_.intermediate, 16) + kRowPadding;
    qkv_stride_ = round_up((m_.num_heads + 2 * m_.num_kv_heads) * m_.head_dim, 32);
    gate_up_stride_ = round_up(2 * static_cast<int64_t>(m_.intermediate), 32);
    sub_stride_ = round_up(m_.hidden, 32);
    for (int pass = 0; pass < 2; ++pass) {  // first to measure, then to place
        arena_used_ = 0;
        const int64_t tokens = m_.max_tokens;
        residual_ = take<float>(tokens * sub_stride_);
        sub_ = take<float>(tokens * sub_stride_);
        qkv_ = take<float>(tokens * qkv_stride_);
        gate_up_ = take<float>(tokens * gate_up_stride_);
        normed_ = take<uint16_t>(tokens * hidden_stride_);
        queries_ = take<uint16_t>(tokens * heads_stride_);
        attended_ = take<uint16_t>(tokens * heads_stride_);
        activated_ = take<uint16_t>(tokens * inter_stride_);
        if (pass == 0) arena_.resize(static_cast<size_t>(arena_used_ + kArenaAlignment));
    }
}

int Llama::check(const SyBatch& b) const {
    if (b.num_tokens < 1 || b.num_tokens > m_.max_tokens || b.num_samples > m_.max_tokens) {
        return SY_TOO_MANY_TOKENS;
    }
    for (int i = 0; i < b.num_tokens; ++i) {
        if (b.token_ids[i] < 0 || b.token_ids[i] >= m_.vocab) return SY_BAD_TOKEN;
    }
    for (int r = 0; r < b.num_rows; ++r) {
        const int count = b.query_starts[r + 1] - b.query_starts[r];
        if (count < 1 || b.seq_lens[r] < count || b.seq_lens[r] > m_.max_positions) return SY_BAD_LENGTH;
        const int blocks = (b.seq_lens[r] + m_.block_size - 1) / m_.block_size;
        if (blocks > b.max_blocks) return SY_BAD_BLOCK;
        for (int i = 0; i < blocks; ++i) {
            const int block = b.block_tables[static_cast<int64_t>(r) * b.max_blocks + i];
            if (block < 0 || block >= m_.num_blocks) return SY_BAD_BLOCK;
        }
    }
    for (int i = 0; i < b.num_samples; ++i) {
        if (b.sample_tokens[i] < 0 || b.sample_tokens[i] >= b.num_tokens) return SY_BAD_LENGTH;
    }
    return SY_OK;
}

int Llama::step(const SyBatch& batch, const SyBank* bank) {
    if (const int problem = check(batch); problem != SY_OK) return problem;
    if (bank != nullptr) {
        for (int i = 0; i < batch.work.offsets[batch.num_rows]; ++i) {
            if (batch.work.pages[i] < 0 || batch.work.pages[i] >= bank->num_pages) return SY_BAD_PAGE;
        }
    }
    lora_.prepare(bank, batch.work, batch.query_starts, batch.num_rows);
    attention_.prepare(attention_of(batch, layers_[0], 0), pool_.num_threads());
    phase_start_ = now_nanoseconds();
    pool_.run([&](Worker& worker) { run(worker, batch); });
    return SY_OK;
}

void Llama::finish_phase(Worker& worker, Phase phase) {
    if (worker.id() != 0) return;
    const uint64_t now = now_nanoseconds();
    phase_seconds_[phase] += static_cast<double>(now - phase_start_) * 1e-9;
    phase_start_ = now;
}

void Llama::run(Worker& worker, const SyBatch& batch) {
    embed(worker, batch);
    for (int i = 0; i < m_.num_layers; ++i) run_layer(worker, batch, layers_[static_cast<size_t>(i)], i);
    head(worker, batch);
}

void Llama::embed(Worker& worker, const SyBatch& batch) {
    worker.for_each(batch.num_tokens, 1, [&](int t) {
        float* to = residual_ + t * sub_stride_;
        weight_row(m_.embedding, batch.token_ids[t], to);
        for (int i = 0; i < m_.hidden; ++i) to[i] *= m_.embedding_scale;
        rms_norm_to_bf16(to, layers_[0].attn_norm, m_.hidden, m_.norm_eps, normed_ + t * hidden_stride_);
    });
    finish_phase(worker, kPhaseEmbed);
}

SyAttention Llama::attention_of(const SyBatch& batch, const SyLayer& layer, int index) const {
    const int64_t layer_elements =
        static_cast<int64_t>(m_.num_blocks) * m_.block_size * m_.num_kv_heads * m_.head_dim;
    SyAttention a = {};
    a.queries = queries_;
    a.output = attended_;
    a.token_stride = heads_stride_;
    a.keys = m_.keys + index * layer_elements;
    a.values = m_.values + index * layer_elements;
    a.query_starts = batch.query_starts;
    a.seq_lens = batch.seq_lens;
    a.block_tables = batch.block_tables;
    a.num_rows = batch.num_rows;
    a.max_blocks = batch.max_blocks;
    a.num_heads = m_.num_heads;
    a.num_kv_heads = m_.num_kv_heads;
    a.head_dim = m_.head_dim;
    a.block_size = m_.block_size;
    a.window = layer.window;
    a.scale = m_.attention_scale;
    a.softcap = m_.attention_softcap;
    return a;
}

void Llama::run_layer(Worker& worker, const SyBatch& batch, const SyLayer& layer, int index) {
    const int tokens = batch.num_tokens;
    const auto nothing = [](int) {};
    const std::vector<TokenBlock>& blocks = lora_.blocks();
    const int num_blocks = static_cast<int>(blocks.size());
    const auto block_at = [&](int i) -> const TokenBlock& { return blocks[static_cast<size_t>(i)]; };

    project(worker, layer.qkv, normed_, hidden_stride_, tokens, qkv_, qkv_stride_, &lora_, nothing);
    finish_phase(worker, kPhaseQkv);

    const int heads = m_.num_heads + 2 * m_.num_kv_heads;
    const int head_parts = num_parts(num_blocks, worker.count(), heads);
    worker.for_each(num_blocks * head_parts, 1, [&](int i) {
        const int part = i % head_parts;
        rope_and_store(batch, layer, index, block_at(i / head_parts), heads * part / head_parts,
                       heads * (part + 1) / head_parts);
    });
    finish_phase(worker, kPhaseRope);

    attention_.run(worker, attention_of(batch, layer, index));
    finish_phase(worker, kPhaseAttention);

    project(worker, layer.o, attended_, heads_stride_, tokens, sub_, sub_stride_, &lora_, nothing);
    finish_phase(worker, kPhaseO);
    worker.for_each(num_blocks, 1, [&](int i) {
        add_sublayer(block_at(i), layer.o, layer.post_attn_norm, layer.mlp_norm);
    });
    finish_phase(worker, kPhaseAttentionResidual);

    project(worker, layer.gate_up, normed_, hidden_stride_, tokens, gate_up_, gate_up_stride_, &lora_, nothing);
    finish_phase(worker, kPhaseGateUp);

    const int inter = m_.intermediate;
    const int units = (inter + 31) / 32;
    const int parts = num_parts(num_blocks, worker.count(), units);
    worker.for_each(num_blocks * parts, 1, [&](int i) {
        const TokenBlock& block = block_at(i / parts);
        const int part = i % parts;
        const int begin = units * part / parts * 32;
        const int end = part + 1 == parts ? inter : units * (part + 1) / parts * 32;
        for (const int column : {0, inter}) {
            lora_.run_expand(block, layer.gate_up, column + begin, column + end, gate_up_, gate_up_stride_);
            add_bias(layer.gate_up.bias, block, column + begin, column + end, gate_up_, gate_up_stride_);
        }
        for (int t = block.first; t < block.first + block.count; ++t) {
            const float* gate = gate_up_ + t * gate_up_stride_ + begin;
            gated_to_bf16(gate, gate + inter, end - begin, m_.activation,
                          activated_ + t * inter_stride_ + begin);
        }
    });
    finish_phase(worker, kPhaseActivation);

    project(worker, layer.down, activated_, inter_stride_, tokens, sub_, sub_stride_, &lora_, nothing);
    finish_phase(worker, kPhaseDown);
    const bool is_last = index + 1 == m_.num_layers;
    const float* next_norm = is_last ? nullptr : layers_[static_cast<size_t>(index) + 1].attn_norm;
    worker.for_each(num_blocks, 1, [&](int i) {
        add_sublayer(block_at(i), layer.down, layer.post_mlp_norm, next_norm);
    });
    finish_phase(worker, kPhaseMlpResidual);
}

void Llama::rope_and_store(const SyBatch& batch, const SyLayer& layer, int index, const TokenBlock& block,
                           int first_head, int last_head) {
    const int dim = m_.head_dim;
    lora_.run_expand(block, layer.qkv, first_head * dim, last_head * dim, qkv_, qkv_stride_);
    add_bias(layer.qkv.bias, block, first_head * dim, last_head * dim, qkv_, qkv_stride_);
    const int query_end = batch.query_starts[block.row + 1];
    const int32_t* table = batch.block_tables + static_cast<int64_t>(block.row) * batch.max_blocks;
    for (int t = block.first; t < block.first + block.count; ++t) {
        const int position = batch.seq_lens[block.row] - query_end + t;
        const float* cos = layer.cos + static_cast<int64_t>(position) * (m_.rotary_dim / 2);
        const float* sin = layer.sin + static_cast<int64_t>(position) * (m_.rotary_dim / 2);
        const int64_t slot =
            (static_cast<int64_t>(index) * m_.num_blocks + table[position / m_.block_size]) * m_.block_size +
            position % m_.block_size;
        for (int h = first_head; h < last_head; ++h) {
            float* x = qkv_ + t * qkv_stride_ + h * dim;
            const int kv = h - m_.num_heads;
            if (kv >= m_.num_kv_heads) {
                to_bf16(x, dim, m_.values + (slot * m_.num_kv_heads + kv - m_.num_kv_heads) * dim);
                continue;
            }
            const float* norm = kv < 0 ? layer.q_norm : layer.k_norm;
            if (norm != nullptr) rms_norm_in_place(x, norm, dim, m_.norm_eps);
            rotate(x, cos, sin, m_.rotary_dim, m_.rotary_interleaved != 0);
            uint16_t* to = kv < 0 ? queries_ + t * heads_stride_ + h * dim
                                  : m_.keys + (slot * m_.num_kv_heads + kv) * dim;
            to_bf16(x, dim, to);
        }
    }
}

void Llama::add_sublayer(const TokenBlock& block, const SyProjection& p, const float* post_norm,
                         const float* next_norm) {
    lora_.run_expand(block, p, 0, m_.hidden, sub_, sub_stride_);
    add_bias(p.bias, block, 0, m_.hidden, sub_, sub_stride_);
    for (int t = block.first; t < block.first + block.count; ++t) {
        float* x = residual_ + t * sub_stride_;
        float* y = sub_ + t * sub_stride_;
        if (post_norm != nullptr) rms_norm_in_place(y, post_norm, m_.hidden, m_.norm_eps);
        for (int i = 0; i < m_.hidden; ++i) x[i] += y[i] * m_.residual_scale;
        if (next_norm == nullptr) continue;
        rms_norm_to_bf16(x, next_norm, m_.hidden, m_.norm_eps, normed_ + t * hidden_stride_);
    }
}

void Llama::head(Worker& worker, const SyBatch& batch) {
    worker.for_each(batch.num_samples, 1, [&](int i) {
        const float* x = residual_ + batch.sample_tokens[i] * sub_stride_;
        rms_norm_to_bf16(x, m_.final_norm, m_.hidden, m_.norm_eps, normed_ + i * hidden_stride_);
    });
    SyProjection p = {};
    p.weight = m_.head;
    const bool is_plain = m_.logits_scale == 1.0f && m_.logits_softcap == 0.0f;
    project(worker, p, normed_, hidden_stride_, batch.num_samples, batch.logits, batch.logits_stride, nullptr,
            [&](int tile) {
        if (is_plain) return;
        const int end = (tile + 1) * kTileColumns < num_tiles16(m_.head) * kLanes ? (tile + 1) * kTileColumns
                                                                                  : num_tiles16(m_.head) * kLanes;
        for (int i = 0; i < batch.num_samples; ++i) {
            for (int column = tile * kTileColumns; column < end; column += kLanes) {
                float* to = batch.logits + i * batch.logits_stride + column;
                F16 v = mul(load(to), set1(m_.logits_scale));
                if (m_.logits_softcap > 0.0f) {
                    v = mul(set1(m_.logits_softcap), tanh(divide(v, set1(m_.logits_softcap))));
                }
                store(to, v);
            }
        }
    });
    finish_phase(worker, kPhaseHead);
}
