#include "attention/received_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/gemm.h"
#include "attention/sliding_window.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

// Tokens [begin, end) of one KV head, all queries of the group.
class KeyBlock {
 public:
  KeyBlock(const PrefillParams& params, const AttentionInput& input, const float* lse,
           int64_t kv_head, int64_t begin, int64_t end)
      : params_(params),
        input_(input),
        lse_(lse),
        kv_head_(kv_head),
        group_(params.heads / params.cache->options().kv_heads),
        dim_(params.cache->options().page.dim),
        begin_(begin),
        end_(end) {}

  Status Add(int64_t stride, float* sums) {
    std::vector<float> keys(static_cast<size_t>((end_ - begin_) * dim_)), values(keys.size());
    PQCACHE_RETURN_IF_ERROR(params_.cache->ReadRows(input_.layer, static_cast<int>(kv_head_),
                                                    begin_, end_, keys.data(), values.data()));
    weights_.resize(static_cast<size_t>(kPrefillTileTokens * (end_ - begin_)));
    for (int64_t g = 0; g < group_; ++g) {
      const int64_t head = kv_head_ * group_ + g;
      for (int64_t first = 0; first < input_.n; first += kPrefillTileTokens) {
        const int64_t count = std::min(kPrefillTileTokens, input_.n - first);
        if (input_.positions[first + count - 1] < begin_) continue;
        AddTile(head, first, count, keys.data(), sums + head * stride + begin_);
      }
    }
    return Status::Ok();
  }

 private:
  void AddTile(int64_t head, int64_t first, int64_t count, const float* keys, float* sums) {
    const int64_t n = end_ - begin_;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    GemmTransposedB(count, n, dim_, scale, input_.queries + (first * params_.heads + head) * dim_,
                    params_.heads * dim_, keys, dim_, weights_.data(), n);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = input_.positions[first + i];
      const int64_t visible = std::clamp<int64_t>(position + 1 - begin_, 0, n);
      const int64_t skip =
          std::clamp<int64_t>(FirstVisible(position, params_.sliding_window) - begin_, 0, visible);
      float* row = weights_.data() + i * n;
      ExpInPlace(row + skip, visible - skip, lse_[(first + i) * params_.heads + head]);
      AddScaled(1.0f, row + skip, visible - skip, sums + skip);
    }
  }

  const PrefillParams& params_;
  const AttentionInput& input_;
  const float* lse_;
  const int64_t kv_head_, group_, dim_, begin_, end_;
  std::vector<float> weights_;  // [kPrefillTileTokens, tokens of the block]
};

}  // namespace

Status AddReceived(const PrefillParams& params, const AttentionInput& input, const float* lse,
                   int64_t stride, ThreadPool* pool, float* sums) {
  if (input.n == 0) return Status::Ok();
  const int64_t kv_heads = params.cache->options().kv_heads;
  const int64_t end = input.positions[input.n - 1] + 1;
  const int64_t first = FirstVisible(input.positions[0], params.sliding_window) /
                        kPrefillBlockKeys * kPrefillBlockKeys;
  const int64_t blocks = (end - first + kPrefillBlockKeys - 1) / kPrefillBlockKeys;
  return pool->RunChecked(blocks * kv_heads, [&](int64_t task) {
    const int64_t begin = first + task / kv_heads * kPrefillBlockKeys;
    return KeyBlock(params, input, lse, task % kv_heads, begin,
                    std::min(end, begin + kPrefillBlockKeys))
        .Add(stride, sums);
  });
}

}  // namespace pqcache::attention
