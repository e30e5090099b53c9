#include "llama.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <numeric>

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
    residual_stride_ = round_up(m_.hidden, 32) + kLanes;
    // Whole heads and whole tiles: a unit of q, k, v can be rotated where it was computed.
    const int width = std::lcm(m_.head_dim, kTileColumns);
    const int outputs = (m_.num_heads + 2 * m_.num_kv_heads) * m_.head_dim;
    qkv_unit_ = {(outputs + width - 1) / width, width, 1, 0};
    // Two tiles side by side, when there are units enough: adapter pages are then read two lines at a time.
    const bool is_wide = m_.intermediate % (2 * kTileColumns) == 0 &&
                         m_.intermediate / (2 * kTileColumns) >= 8 * pool_.num_threads();
    const int gate_width = is_wide ? 2 * kTileColumns : kTileColumns;
    gate_up_unit_ = {m_.intermediate / gate_width, gate_width, 2, m_.intermediate};
    for (int pass = 0; pass < 2; ++pass) {  // first to measure, then to place
        arena_used_ = 0;
        const int64_t tokens = m_.max_tokens;
        residual_ = take<float>(tokens * residual_stride_);
        sublayer_ = take<float>(tokens * residual_stride_);
        normed_ = take<uint16_t>(tokens * hidden_stride_);
        queries_ = take<uint16_t>(tokens * heads_stride_);
        attended_ = take<uint16_t>(tokens * heads_stride_);
        activated_ = take<uint16_t>(tokens * inter_stride_);
        scaled_ = take<uint16_t>(tokens * (heads_stride_ > inter_stride_ ? heads_stride_ : inter_stride_));
        byte_room_ = take<uint8_t>(byte_room_bytes(tokens));
        positions_ = take<int32_t>(tokens);
        slots_ = take<int32_t>(tokens);
        if (pass == 0) arena_.resize(static_cast<size_t>(arena_used_ + kArenaAlignment));
    }
}

// Of the widest projection that multiplies bytes.
int64_t Llama::byte_room_bytes(int64_t num_tokens) const {
    int64_t widest = multiplies_bytes(m_.head) ? ByteRows::room_bytes(num_tokens, m_.hidden) : 0;
    for (const SyLayer& layer : layers_) {
        for (const SyProjection* p : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
            if (!multiplies_bytes(p->weight)) continue;
            widest = std::max(widest, ByteRows::room_bytes(num_tokens, p->weight.k));
        }
    }
    return widest;
}

int Llama::check(const SyBatch& b, const SyBank* bank) const {
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
    for (int i = 0; bank != nullptr && i < b.work.offsets[b.num_rows]; ++i) {
        if (b.work.pages[i] < 0 || b.work.pages[i] >= bank->num_pages) return SY_BAD_PAGE;
    }
    return SY_OK;
}

int Llama::step(const SyBatch& batch, const SyBank* bank) {
    if (const int problem = check(batch, bank); problem != SY_OK) return problem;
    place_tokens(batch);
    lora_.prepare(bank, batch.work, batch.query_starts, batch.num_rows, batch.has_vectors != 0);
    attention_.prepare(attention_of(batch, layers_[0], 0), pool_.num_threads());
    phase_start_ = now_nanoseconds();
    pool_.run([&](Worker& worker) { run(worker, batch); });
    return SY_OK;
}

void Llama::place_tokens(const SyBatch& batch) {
    for (int r = 0; r < batch.num_rows; ++r) {
        const int end = batch.query_starts[r + 1];
        const int32_t* table = batch.block_tables + static_cast<int64_t>(r) * batch.max_blocks;
        for (int t = batch.query_starts[r]; t < end; ++t) {
            positions_[t] = batch.seq_lens[r] - end + t;
            slots_[t] = table[positions_[t] / m_.block_size] * m_.block_size + positions_[t] % m_.block_size;
        }
    }
}

void Llama::finish_phase(const Worker& worker, Phase phase) {
    if (worker.id() != 0) return;
    const uint64_t now = now_nanoseconds();
    phase_seconds_[phase] += static_cast<double>(now - phase_start_) * 1e-9;
    phase_start_ = now;
}

void Llama::run(Worker& worker, const SyBatch& batch) {
    embed(worker, batch);
    for (int i = 0; i < m_.num_layers; ++i) run_layer(worker, batch, i);
    head(worker, batch);
}

void Llama::embed(Worker& worker, const SyBatch& batch) {
    worker.for_each(batch.num_tokens, [&](int t) {
        float* to = residual_ + t * residual_stride_;
        const int own = batch.embedding_rows == nullptr ? -1 : batch.embedding_rows[t];
        if (own >= 0) {
            memcpy(to, batch.embeddings + static_cast<int64_t>(own) * m_.hidden,
                   static_cast<size_t>(m_.hidden) * sizeof(float));
        } else {
            weight_row(m_.embedding, batch.token_ids[t], to);
            for (int i = 0; i < m_.hidden; ++i) to[i] *= m_.embedding_scale;
        }
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

void Llama::run_layer(Worker& worker, const SyBatch& batch, int index) {
    const SyLayer& layer = layers_[static_cast<size_t>(index)];
    const bool is_last = index + 1 == m_.num_layers;
    const SyLayer* after = is_last ? nullptr : &layers_[static_cast<size_t>(index) + 1];
    const int tokens = batch.num_tokens;
    LoraPlan* lora = lora_.is_empty() ? nullptr : &lora_;

    const SyAttention attention = attention_of(batch, layer, index);
    const ProjectionCall qkv = {layer.qkv, normed_, hidden_stride_, tokens, lora, &layer.o, nullptr, byte_room_,
                                &attention_, &attention};
    run_shrinks(worker, qkv);
    finish_phase(worker, kPhaseQkvShrink);
    run_product(worker, qkv, qkv_unit_, [&](int, int column, float* sums, int64_t stride) {
        const int heads = unit_columns(qkv_unit_, layer.qkv.weight.n, column / qkv_unit_.width) / m_.head_dim;
        rotate_and_store(layer, index, column / m_.head_dim, heads, tokens, sums, stride);
    });
    finish_phase(worker, kPhaseQkv);

    attention_.run(worker, attention);
    finish_phase(worker, kPhaseAttention);

    const ProjectionCall o = {layer.o, attended_, heads_stride_, tokens, lora, &layer.gate_up, scaled_, byte_room_};
    run_shrinks(worker, o);
    finish_phase(worker, kPhaseOShrink);
    run_sublayer(worker, o, layer.post_attn_norm, kPhaseO);
    norm_rows(worker, tokens, layer.post_attn_norm, layer.mlp_norm);
    finish_phase(worker, kPhaseMlpNorm);

    const ProjectionCall gate_up = {layer.gate_up, normed_, hidden_stride_, tokens, lora, &layer.down, nullptr, byte_room_};
    run_shrinks(worker, gate_up);
    finish_phase(worker, kPhaseGateUpShrink);
    run_product(worker, gate_up, gate_up_unit_, [&](int, int column, const float* sums, int64_t stride) {
        for (int64_t t = 0; t < tokens; ++t) {
            gated_to_bf16(sums + t * stride, sums + t * stride + gate_up_unit_.width, gate_up_unit_.width,
                          m_.activation, activated_ + t * inter_stride_ + column);
        }
    });
    finish_phase(worker, kPhaseGateUp);

    const ProjectionCall down = {layer.down, activated_, inter_stride_, tokens, lora,
                                 is_last ? nullptr : &after->qkv, scaled_, byte_room_};
    run_shrinks(worker, down);
    finish_phase(worker, kPhaseDownShrink);
    run_sublayer(worker, down, layer.post_mlp_norm, kPhaseDown);
    norm_rows(worker, tokens, layer.post_mlp_norm, is_last ? nullptr : after->attn_norm);
    finish_phase(worker, kPhaseNextNorm);
}

// Heads [first_head, first_head + num_heads) of q, then k, then v, for all tokens.
void Llama::rotate_and_store(const SyLayer& layer, int index, int first_head, int num_heads, int num_tokens,
                             float* sums, int64_t stride) {
    const int dim = m_.head_dim;
    const int64_t first_slot = static_cast<int64_t>(index) * m_.num_blocks * m_.block_size;
    for (int64_t t = 0; t < num_tokens; ++t) {
        const int64_t angles = static_cast<int64_t>(positions_[t]) * (m_.rotary_dim / 2);
        const int64_t cache_row = (first_slot + slots_[t]) * m_.num_kv_heads;
        for (int i = 0; i < num_heads; ++i) {
            float* x = sums + t * stride + i * dim;
            const int head = first_head + i;
            const int kv = head - m_.num_heads;
            if (kv >= m_.num_kv_heads) {
                to_bf16(x, dim, m_.values + (cache_row + kv - m_.num_kv_heads) * dim);
                continue;
            }
            const float* norm = kv < 0 ? layer.q_norm : layer.k_norm;
            if (norm != nullptr) rms_norm_in_place(x, norm, dim, m_.norm_eps);
            rotate(x, layer.cos + angles, layer.sin + angles, m_.rotary_dim, m_.rotary_interleaved != 0);
            to_bf16(x, dim, kv < 0 ? queries_ + t * heads_stride_ + head * dim : m_.keys + (cache_row + kv) * dim);
        }
    }
}

// A projection back to the residual stream: added at once, or kept aside for a norm of its output.
void Llama::run_sublayer(Worker& worker, const ProjectionCall& call, const float* post_norm, Phase phase) {
    run_product(worker, call, tile_units(call.p.weight), [&](int, int column, const float* sums, int64_t stride) {
        const int columns = m_.hidden - column < kTileColumns ? m_.hidden - column : kTileColumns;
        for (int64_t t = 0; t < call.num_rows; ++t) {
            const float* y = sums + t * stride;
            if (post_norm != nullptr) {
                memcpy(sublayer_ + t * residual_stride_ + column, y, static_cast<size_t>(columns) * sizeof(float));
                continue;
            }
            float* x = residual_ + t * residual_stride_ + column;
            for (int i = 0; i < columns; ++i) x[i] += y[i] * m_.residual_scale;
        }
    });
    finish_phase(worker, phase);
}

void Llama::norm_rows(Worker& worker, int num_tokens, const float* post_norm, const float* next_norm) {
    if (post_norm == nullptr && next_norm == nullptr) return;
    worker.for_each(num_tokens, [&](int t) {
        float* x = residual_ + t * residual_stride_;
        if (post_norm != nullptr) {
            float* y = sublayer_ + t * residual_stride_;
            rms_norm_in_place(y, post_norm, m_.hidden, m_.norm_eps);
            for (int i = 0; i < m_.hidden; ++i) x[i] += y[i] * m_.residual_scale;
        }
        if (next_norm == nullptr) return;
        rms_norm_to_bf16(x, next_norm, m_.hidden, m_.norm_eps, normed_ + t * hidden_stride_);
    });
}

void Llama::head(Worker& worker, const SyBatch& batch) {
    worker.for_each(batch.num_samples, [&](int i) {
        const float* x = residual_ + batch.sample_tokens[i] * residual_stride_;
        rms_norm_to_bf16(x, m_.final_norm, m_.hidden, m_.norm_eps, normed_ + i * hidden_stride_);
        if (batch.sample_hidden != nullptr) {
            memcpy(batch.sample_hidden + static_cast<int64_t>(i) * m_.hidden, normed_ + i * hidden_stride_,
                   static_cast<size_t>(m_.hidden) * sizeof(uint16_t));
        }
    });
    SyProjection p = {};
    p.weight = m_.head;
    const ProjectionCall call = {p,       normed_, hidden_stride_, batch.num_samples, nullptr,
                                 nullptr, nullptr, byte_room_};
    if (batch.num_samples > 0) {
        run_product(worker, call, tile_units(m_.head), [&](int, int column, const float* sums, int64_t stride) {
            for (int64_t i = 0; i < batch.num_samples; ++i) {
                for (int c = 0; c < kTileColumns; c += kLanes) {
                    F16 v = mul(load(sums + i * stride + c), set1(m_.logits_scale));
                    if (m_.logits_softcap > 0.0f) {
                        v = mul(set1(m_.logits_softcap), tanh(divide(v, set1(m_.logits_softcap))));
                    }
                    store(batch.logits + i * batch.logits_stride + column + c, v);
                }
            }
        });
    }
    finish_phase(worker, kPhaseHead);
}
