#include "attention/prefill_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "attention/gemm.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

constexpr int64_t kTileTokens = 512;  // query tokens of one task
constexpr int64_t kBlockKeys = 512;   // keys of one step
constexpr float kMasked = -std::numeric_limits<float>::infinity();

// One task: the G query heads of one KV head, for a tile of consecutive tokens.
class Tile {
 public:
  Tile(const PrefillParams& params, const AttentionInput& input, int kv_head, int64_t begin,
       int64_t end)
      : params_(params),
        input_(input),
        kv_head_(kv_head),
        group_(params.heads / params.cache->options().kv_heads),
        dim_(params.cache->options().page.dim),
        begin_(begin),
        tokens_(end - begin),
        rows_(group_ * tokens_),
        queries_(static_cast<size_t>(rows_ * dim_)),
        out_(static_cast<size_t>(rows_ * dim_), 0.0f),
        max_(static_cast<size_t>(rows_), kMasked),
        sum_(static_cast<size_t>(rows_), 0.0f),
        logits_(static_cast<size_t>(rows_ * kBlockKeys)) {
    for (int64_t r = 0; r < rows_; ++r) {
      std::copy_n(input.queries + QueryOffset(r), dim_, &queries_[static_cast<size_t>(r * dim_)]);
    }
  }

  Status Run(float* out) {
    const int64_t past = input_.positions[0];
    const int64_t first_position = past + begin_;
    const int64_t first_key =
        params_.sliding_window > 0
            ? std::max<int64_t>(0, first_position - params_.sliding_window + 1)
            : 0;
    std::vector<float> keys(static_cast<size_t>(kBlockKeys * dim_));
    std::vector<float> values(static_cast<size_t>(kBlockKeys * dim_));
    for (int64_t begin = first_key; begin < past; begin += kBlockKeys) {
      const int64_t end = std::min(past, begin + kBlockKeys);
      PQCACHE_RETURN_IF_ERROR(
          params_.cache->ReadRows(input_.layer, kv_head_, begin, end, keys.data(), values.data()));
      AddBlock(begin, end, keys.data(), values.data(), dim_);
    }
    const int64_t stride = int64_t{params_.cache->options().kv_heads} * dim_;
    const int64_t last = first_position + tokens_;
    for (int64_t begin = std::max(past, first_key); begin < last; begin += kBlockKeys) {
      const int64_t offset = (begin - past) * stride + kv_head_ * dim_;
      AddBlock(begin, std::min(last, begin + kBlockKeys), input_.keys + offset,
               input_.values + offset, stride);
    }
    Finish(out);
    return Status::Ok();
  }

 private:
  int64_t QueryOffset(int64_t row) const {
    const int64_t token = begin_ + row % tokens_;
    const int64_t head = kv_head_ * group_ + row / tokens_;
    return (token * params_.heads + head) * dim_;
  }

  // Keys [begin, end) by position, rows `stride` floats apart.
  void AddBlock(int64_t begin, int64_t end, const float* keys, const float* values,
                int64_t stride) {
    const int64_t count = end - begin;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    GemmTransposedB(rows_, count, dim_, scale, queries_.data(), dim_, keys, stride, logits_.data(),
                    kBlockKeys);
    for (int64_t r = 0; r < rows_; ++r) Normalise(r, begin, count);
    GemmAdd(rows_, dim_, count, logits_.data(), kBlockKeys, values, stride, out_.data(), dim_);
  }

  // Turns a row of logits into weights against the running maximum.
  void Normalise(int64_t r, int64_t first_key, int64_t count) {
    float* row = &logits_[static_cast<size_t>(r * kBlockKeys)];
    const int64_t position = input_.positions[0] + begin_ + r % tokens_;
    const int64_t lowest = params_.sliding_window > 0 ? position - params_.sliding_window + 1 : 0;
    const int64_t skip = std::clamp<int64_t>(lowest - first_key, 0, count);
    const int64_t visible = std::clamp<int64_t>(position + 1 - first_key, skip, count);
    std::fill(row, row + skip, 0.0f);
    std::fill(row + visible, row + count, 0.0f);
    const size_t i = static_cast<size_t>(r);
    const float max = std::max(max_[i], MaxOf(row + skip, visible - skip));
    if (max == kMasked) {
      std::fill(row + skip, row + visible, 0.0f);
      return;
    }
    if (max > max_[i]) {
      const float factor = std::exp(max_[i] - max);
      float* out = &out_[i * static_cast<size_t>(dim_)];
      for (int64_t d = 0; d < dim_; ++d) out[d] *= factor;
      sum_[i] *= factor;
      max_[i] = max;
    }
    sum_[i] += ExpInPlace(row + skip, visible - skip, max);
  }

  void Finish(float* out) const {
    for (int64_t r = 0; r < rows_; ++r) {
      const float factor = 1.0f / sum_[static_cast<size_t>(r)];
      const float* row = &out_[static_cast<size_t>(r * dim_)];
      float* target = out + QueryOffset(r);
      for (int64_t d = 0; d < dim_; ++d) target[d] = factor * row[d];
    }
  }

  const PrefillParams& params_;
  const AttentionInput& input_;
  const int64_t kv_head_, group_, dim_;
  const int64_t begin_, tokens_, rows_;  // rows: query head, then token
  std::vector<float> queries_, out_, max_, sum_, logits_;
};

}  // namespace

Status PrefillAttention(const PrefillParams& params, const AttentionInput& input, ThreadPool* pool,
                        float* out) {
  const int kv_heads = params.cache->options().kv_heads;
  const int64_t tiles = (input.n + kTileTokens - 1) / kTileTokens;
  std::mutex mutex;
  Status first_error;
  pool->Run(tiles * kv_heads, [&](int64_t task) {
    // The last tiles see the most keys; they go first, so that no worker is left with one.
    const int64_t begin = (tiles - 1 - task / kv_heads) * kTileTokens;
    Tile tile(params, input, static_cast<int>(task % kv_heads), begin,
              std::min(input.n, begin + kTileTokens));
    const Status status = tile.Run(out);
    if (status.ok()) return;
    std::lock_guard lock(mutex);
    if (first_error.ok()) first_error = status;
  });
  return first_error;
}

}  // namespace pqcache::attention
