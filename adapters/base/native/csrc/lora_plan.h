// How one step's adapter work is cut into items, shared by all layers.
#pragma once

#include <vector>

#include "lora.h"
#include "pool.h"
#include "tile.h"

// Up to kBlockTokens neighbouring tokens of one row; the unit in which rows are post-processed.
struct TokenBlock {
    int row, first, count;
};
constexpr int kBlockTokens = 16;
constexpr int kMaxSegments = 3;

class LoraPlan {
   public:
    void prepare(const SyBank* bank, const SyWork& work, const int32_t* query_starts, int num_rows) {
        bank_ = bank;
        work_ = work;
        blocks_.clear();
        shrinks_.clear();
        row_bases_.clear();
        int64_t base = 0;
        for (int row = 0; row < num_rows; ++row) {
            const int begin = query_starts[row], end = query_starts[row + 1];
            const int items = num_items(row);
            row_bases_.push_back({begin, base});
            for (int t = begin; t < end; t += kBlockTokens) {
                const int count = end - t < kBlockTokens ? end - t : kBlockTokens;
                blocks_.push_back({row, t, count});
                for (int j = 0; j < items; ++j) shrinks_.push_back({{row, t, count}, j});
            }
            base += static_cast<int64_t>(end - begin) * items * kItemFloats;
        }
        if (static_cast<int64_t>(h_.size()) < base) h_.resize(static_cast<size_t>(base));
    }

    const std::vector<TokenBlock>& blocks() const { return blocks_; }
    int num_shrinks() const { return static_cast<int>(shrinks_.size()); }
    bool is_empty() const { return shrinks_.empty(); }

    // Shrink `index` of num_shrinks() * p.num_segments, for projection `p` with inputs x.
    void run_shrink(int index, const SyProjection& p, const uint16_t* x, int64_t x_stride) {
        const int segment = index % p.num_segments;
        const int module = p.segments[segment].module;
        if (module < 0) return;
        const Shrink& s = shrinks_[static_cast<size_t>(index / p.num_segments)];
        const int item = work_.offsets[s.block.row] + s.item;
        const int items = num_items(s.block.row);
        float* h = h_of(s.block, s.item) + segment * kPageRank;
        shrink(*bank_, work_.pages[item], module, work_.scales[item], x + s.block.first * x_stride, x_stride,
               s.block.count, h, static_cast<int64_t>(items) * kItemFloats);
    }

    // Adds the deltas for columns [begin, end) of projection `p` to its output rows in `block`.
    void run_expand(const TokenBlock& block, const SyProjection& p, int begin, int end, float* out,
                    int64_t out_stride) {
        const int items = bank_ == nullptr ? 0 : num_items(block.row);
        if (items == 0) return;
        const int32_t first = work_.offsets[block.row];
        for (int s = 0; s < p.num_segments; ++s) {
            const SySegment& segment = p.segments[s];
            const int low = begin > segment.column ? begin : segment.column;
            const int limit = segment.column + segment.columns;
            const int high = end < limit ? end : limit;
            if (segment.module < 0 || low >= high) continue;
            const RowWork row = {work_.pages + first, work_.scales + first, items,
                                 h_of(block, 0) + s * kPageRank, static_cast<int64_t>(items) * kItemFloats,
                                 kItemFloats};
            expand(*bank_, row, segment.module, low - segment.column, high - segment.column, block.count,
                   out + block.first * out_stride + low, out_stride);
        }
    }

    // Adapter bytes of projection `p` that share `part` of `num_parts` should bring near.
    int ranges(const SyProjection& p, int part, int num_parts, MemoryRange* out, int max_ranges) const {
        if (bank_ == nullptr || p.num_segments == 0) return 0;
        const int64_t total = static_cast<int64_t>(shrinks_.size()) * p.num_segments;
        const int64_t begin = total * part / num_parts, end = total * (part + 1) / num_parts;
        int count = 0;
        for (int64_t i = begin; i < end && count + 2 <= max_ranges; ++i) {
            const Shrink& s = shrinks_[static_cast<size_t>(i / p.num_segments)];
            const int module = p.segments[i % p.num_segments].module;
            const int64_t page = work_.pages[work_.offsets[s.block.row] + s.item];
            if (module < 0 || bank_->module_scales[page * bank_->num_modules + module] == 0.0f) continue;
            const uint16_t* base = bank_->pages + page * bank_->page_elements;
            const int64_t bytes_per_feature = kPageRank * static_cast<int64_t>(sizeof(uint16_t));
            out[count++] = {reinterpret_cast<const char*>(base + bank_->a_offsets[module]),
                            bank_->in_features[module] * bytes_per_feature};
            out[count++] = {reinterpret_cast<const char*>(base + bank_->b_offsets[module]),
                            bank_->out_features[module] * bytes_per_feature};
        }
        return count;
    }

   private:
    static constexpr int kItemFloats = kMaxSegments * kPageRank;
    struct Shrink {
        TokenBlock block;
        int item;
    };
    struct RowBase {
        int first_token;
        int64_t h_base;
    };

    int num_items(int row) const {
        return bank_ == nullptr ? 0 : work_.offsets[row + 1] - work_.offsets[row];
    }
    float* h_of(const TokenBlock& block, int item) {
        const RowBase& row = row_bases_[static_cast<size_t>(block.row)];
        const int64_t token = block.first - row.first_token;
        return h_.data() + row.h_base + (token * num_items(block.row) + item) * kItemFloats;
    }

    const SyBank* bank_ = nullptr;
    SyWork work_ = {};
    std::vector<TokenBlock> blocks_;
    std::vector<Shrink> shrinks_;
    std::vector<RowBase> row_bases_;
    std::vector<float> h_;
};
