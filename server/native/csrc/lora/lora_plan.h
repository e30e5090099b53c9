// How one step's adapter work is cut into items, shared by all layers.
#pragma once

#include <algorithm>
#include <vector>

#include "lora/lora.h"
#include "pool.h"
#include "simd/tile.h"
#include "lora/vectors.h"

// Up to kBlockTokens neighbouring tokens of one row; the unit in which rows are post-processed.
struct TokenBlock {
    int row, first, count;
};
constexpr int kBlockTokens = 16;
constexpr int kMaxSegments = 3;

class LoraPlan {
   public:
    void prepare(const SyBank* bank, const SyWork& work, const int32_t* query_starts, int num_rows,
                 bool has_vectors = false) {
        bank_ = bank;
        has_vectors_ = has_vectors && bank != nullptr;
        work_ = work;
        blocks_.clear();
        shrinks_.clear();
        row_bases_.clear();
        pages_.clear();
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
        // Pages in use, each once: rows that share an adapter share its lines.
        if (bank != nullptr) pages_.assign(work.pages, work.pages + work.offsets[num_rows]);
        std::sort(pages_.begin(), pages_.end());
        pages_.erase(std::unique(pages_.begin(), pages_.end()), pages_.end());
        if (static_cast<int64_t>(h_.size()) < base) h_.resize(static_cast<size_t>(base));
    }

    const std::vector<TokenBlock>& blocks() const { return blocks_; }
    int num_shrinks() const { return static_cast<int>(shrinks_.size()); }
    bool is_empty() const { return shrinks_.empty(); }

    // Shrink `index` of num_shrinks() * p.num_segments, for projection `p` with inputs x.
    void run_shrink(int index, const SyProjection& p, const uint16_t* x, int64_t x_stride) {
        const int segment = index % p.num_segments;
        const int module = p.segments[segment].module;
        const Shrink& s = shrinks_[static_cast<size_t>(index / p.num_segments)];
        const int item = work_.offsets[s.block.row] + s.item;
        const int items = num_items(s.block.row);
        float* h = h_of(s.block, s.item) + segment * kPageRank;
        shrink(*bank_, work_.pages[item], module, work_.scales[item], x + s.block.first * x_stride, x_stride,
               s.block.count, h, static_cast<int64_t>(items) * kItemFloats);
    }

    // Adds the deltas for columns [begin, end) of projection `p` to all rows; column `begin` is out[0].
    // Only when the step has adapter work.
    void run_expand(const SyProjection& p, int begin, int end, float* out, int64_t out_stride) {
        for (int s = 0; s < p.num_segments; ++s) {
            const SySegment& segment = p.segments[s];
            const Overlap part(segment, begin, end);
            if (part.is_empty()) continue;
            for (const TokenBlock& block : blocks_) {
                const int32_t first = work_.offsets[block.row];
                const int items = work_.offsets[block.row + 1] - first;
                if (items == 0) continue;
                const RowWork row = {work_.pages + first, work_.scales + first, items,
                                     h_of(block, 0) + s * kPageRank,
                                     static_cast<int64_t>(items) * kItemFloats, kItemFloats};
                expand(*bank_, row, segment.module, part.begin - segment.column, part.end - segment.column,
                       block.count, out + block.first * out_stride + part.begin - begin, out_stride);
            }
        }
    }

    // Applies the output vectors for columns [begin, end) of projection `p`, before any delta is added.
    void run_vectors(const SyProjection& p, int begin, int end, float* out, int64_t out_stride) const {
        if (!has_vectors_) return;
        for (int s = 0; s < p.num_segments; ++s) {
            const SySegment& segment = p.segments[s];
            const Overlap part(segment, begin, end);
            if (part.is_empty()) continue;
            for (const TokenBlock& block : blocks_) {
                const int32_t first = work_.offsets[block.row];
                apply_output_vectors(*bank_, work_.pages + first, work_.scales + first,
                                     work_.offsets[block.row + 1] - first, segment.module,
                                     part.begin - segment.column, part.end - segment.column, block.count,
                                     out + block.first * out_stride + part.begin - begin, out_stride);
            }
        }
    }

    // Whether some row has the base's inputs of `p` scaled, which only projections of one module can.
    bool scales_inputs(const SyProjection& p) const {
        if (!has_vectors_ || p.num_segments != 1) return false;
        for (const int32_t page : pages_) {
            if (vector_bits(*bank_, page, p.segments[0].module) & SY_VECTOR_INPUT) return true;
        }
        return false;
    }

    int num_blocks() const { return static_cast<int>(blocks_.size()); }

    // The base's inputs of block `index` for projection `p`.
    void run_scale(int index, const SyProjection& p, const uint16_t* x, int64_t x_stride, uint16_t* out) const {
        const TokenBlock& block = blocks_[static_cast<size_t>(index)];
        const int32_t first = work_.offsets[block.row];
        for (int64_t t = block.first; t < block.first + block.count; ++t) {
            scale_inputs(*bank_, work_.pages + first, work_.scales + first, work_.offsets[block.row + 1] - first,
                         p.segments[0].module, x + t * x_stride, out + t * x_stride);
        }
    }

    // The lines of B that run_expand reads for columns [begin, end).
    int expand_ranges(const SyProjection& p, int begin, int end, LineRange* out, int max_ranges) const {
        int count = 0;
        for (int s = 0; s < p.num_segments; ++s) {
            const SySegment& segment = p.segments[s];
            const Overlap part(segment, begin, end);
            if (part.is_empty()) continue;
            const int64_t n = bank_->out_features[segment.module];
            for (const int32_t page : pages_) {
                if (!has_module(page, segment.module)) continue;
                const uint16_t* b = page_at(page) + bank_->b_offsets[segment.module] + part.begin - segment.column;
                for (int column = 0; column < part.end - part.begin; column += 32) {
                    if (count == max_ranges) return count;
                    out[count++] = {reinterpret_cast<const char*>(b + column),
                                    n * static_cast<int64_t>(sizeof(uint16_t)), kPageRank};
                }
            }
        }
        return count;
    }

    // Part `part` of `num_parts` of the A that the shrinks of projection `p` read.
    int shrink_ranges(const SyProjection& p, int part, int num_parts, LineRange* out, int max_ranges) const {
        const int64_t total = static_cast<int64_t>(shrinks_.size()) * p.num_segments;
        const int64_t begin = total * part / num_parts, end = total * (part + 1) / num_parts;
        int count = 0;
        for (int64_t i = begin; i < end && count < max_ranges; ++i) {
            const Shrink& s = shrinks_[static_cast<size_t>(i / p.num_segments)];
            const int module = p.segments[i % p.num_segments].module;
            const int32_t page = work_.pages[work_.offsets[s.block.row] + s.item];
            if (!has_module(page, module)) continue;
            out[count++] = line_range(page_at(page) + bank_->a_offsets[module],
                                      bank_->in_features[module] * kPageRank * static_cast<int64_t>(sizeof(uint16_t)));
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

    struct Overlap {
        int begin, end;
        Overlap(const SySegment& s, int low, int high)
            : begin(low > s.column ? low : s.column),
              end(high < s.column + s.columns ? high : s.column + s.columns) {}
        bool is_empty() const { return begin >= end; }
    };

    bool has_module(int64_t page, int module) const {
        return bank_->module_scales[page * bank_->num_modules + module] != 0.0f;
    }
    const uint16_t* page_at(int64_t page) const { return bank_->pages + page * bank_->page_elements; }
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
    bool has_vectors_ = false;
    std::vector<TokenBlock> blocks_;
    std::vector<Shrink> shrinks_;
    std::vector<RowBase> row_bases_;
    std::vector<int32_t> pages_;
    std::vector<float> h_;
};
