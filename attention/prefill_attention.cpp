#include "attention/prefill_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/gemm.h"
#include "attention/sliding_window.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Keys and values of consecutive positions, rows `stride` floats apart.
struct KeyBlock {
  int64_t begin = 0, end = 0;
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t stride = 0;
};

// The G query heads of one KV head, for consecutive tokens of the chunk. Rows: query head, then
// token.
class Tile {
 public:
  Tile(const PrefillParams& params, const AttentionInput& input, int64_t kv_head, int64_t begin,
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
        sum_(static_cast<size_t>(rows_), 0.0f) {
    for (int64_t r = 0; r < rows_; ++r) {
      std::copy_n(input.queries + QueryOffset(r), dim_, &queries_[static_cast<size_t>(r * dim_)]);
    }
  }

  // Positions of the keys that some token of the tile attends to.
  int64_t first_key() const { return FirstKeyOf(Position(0)); }
  int64_t last_key() const { return Position(tokens_ - 1); }

  // logits: scratch that grows to [rows, kPrefillBlockKeys].
  void AddBlock(const KeyBlock& block, std::vector<float>* logits) {
    logits->resize(std::max(logits->size(), static_cast<size_t>(rows_ * kPrefillBlockKeys)));
    const int64_t count = block.end - block.begin;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
    GemmTransposedB(rows_, count, dim_, scale, queries_.data(), dim_, block.keys, block.stride,
                    logits->data(), kPrefillBlockKeys);
    for (int64_t r = 0; r < rows_; ++r) {
      Normalise(r, block.begin, count, logits->data() + r * kPrefillBlockKeys);
    }
    GemmAdd(rows_, dim_, count, logits->data(), kPrefillBlockKeys, block.values, block.stride,
            out_.data(), dim_);
  }

  void Finish(float* out, float* lse) const {
    for (int64_t r = 0; r < rows_; ++r) {
      const auto i = static_cast<size_t>(r);
      if (lse != nullptr) lse[QueryOffset(r) / dim_] = max_[i] + std::log(sum_[i]);
      const float factor = 1.0f / sum_[i];
      const float* row = &out_[static_cast<size_t>(r * dim_)];
      float* target = out + QueryOffset(r);
      for (int64_t d = 0; d < dim_; ++d) target[d] = factor * row[d];
    }
  }

 private:
  int64_t Position(int64_t token) const { return input_.positions[begin_ + token]; }
  int64_t FirstKeyOf(int64_t position) const {
    return FirstVisible(position, params_.sliding_window);
  }
  int64_t QueryOffset(int64_t row) const {
    const int64_t token = begin_ + row % tokens_;
    const int64_t head = kv_head_ * group_ + row / tokens_;
    return (token * params_.heads + head) * dim_;
  }

  // Turns a row of logits into weights against the running maximum.
  void Normalise(int64_t r, int64_t first, int64_t count, float* row) {
    const int64_t position = Position(r % tokens_);
    const int64_t skip = std::clamp<int64_t>(FirstKeyOf(position) - first, 0, count);
    const int64_t visible = std::clamp<int64_t>(position + 1 - first, skip, count);
    std::fill(row, row + skip, 0.0f);
    std::fill(row + visible, row + count, 0.0f);
    const size_t i = static_cast<size_t>(r);
    const float max = std::max(max_[i], MaxOf(row + skip, visible - skip));
    if (visible == skip) return;
    if (max > max_[i]) {
      const float factor = std::exp(max_[i] - max);
      float* out = &out_[i * static_cast<size_t>(dim_)];
      for (int64_t d = 0; d < dim_; ++d) out[d] *= factor;
      sum_[i] *= factor;
      max_[i] = max;
    }
    // While every logit is -infinity or NaN, any reference will do: no weight, or NaN.
    sum_[i] += ExpInPlace(row + skip, visible - skip, max == kMasked ? 0.0f : max);
  }

  const PrefillParams& params_;
  const AttentionInput& input_;
  const int64_t kv_head_, group_, dim_;
  const int64_t begin_, tokens_, rows_;
  std::vector<float> queries_, out_, max_, sum_;
};

// Tiles [first, last) of one KV head: every block of keys is read once for all of them.
Status RunTiles(const PrefillParams& params, const AttentionInput& input, int64_t kv_head,
                int64_t first, int64_t last, float* out, float* lse) {
  std::vector<Tile> tiles;
  for (int64_t t = first; t < last; ++t) {
    const int64_t begin = t * kPrefillTileTokens;
    tiles.emplace_back(params, input, kv_head, begin,
                       std::min(input.n, begin + kPrefillTileTokens));
  }
  std::vector<float> logits;
  const auto add = [&](const KeyBlock& block) {
    for (Tile& tile : tiles) {
      if (block.begin <= tile.last_key() && block.end > tile.first_key()) {
        tile.AddBlock(block, &logits);
      }
    }
  };
  const int64_t dim = params.cache->options().page.dim;
  const int64_t past = input.positions[0];
  std::vector<float> keys(static_cast<size_t>(kPrefillBlockKeys * dim)), values(keys.size());
  // Blocks begin at multiples of their size, whatever the tiles, so sums do not depend on how
  // tiles are dealt to tasks.
  const int64_t first_key = tiles.front().first_key() / kPrefillBlockKeys * kPrefillBlockKeys;
  for (int64_t begin = first_key; begin < past; begin += kPrefillBlockKeys) {
    const int64_t end = std::min(past, begin + kPrefillBlockKeys);
    PQCACHE_RETURN_IF_ERROR(params.cache->ReadRows(input.layer, static_cast<int>(kv_head), begin,
                                                   end, keys.data(), values.data()));
    add({begin, end, keys.data(), values.data(), dim});
  }
  const int64_t stride = int64_t{params.cache->options().kv_heads} * dim;
  for (int64_t begin = 0; begin < input.n; begin += kPrefillBlockKeys) {
    const int64_t offset = begin * stride + kv_head * dim;
    add({past + begin, past + std::min(input.n, begin + kPrefillBlockKeys), input.keys + offset,
         input.values + offset, stride});
  }
  for (const Tile& tile : tiles) tile.Finish(out, lse);
  return Status::Ok();
}

}  // namespace

Status PrefillAttention(const PrefillParams& params, const AttentionInput& input, ThreadPool* pool,
                        float* out, float* lse) {
  const int64_t kv_heads = params.cache->options().kv_heads;
  const int64_t tiles = (input.n + kPrefillTileTokens - 1) / kPrefillTileTokens;
  // Few tasks read the past seldom, many keep every thread busy to the end.
  const int64_t wanted = 2 * pool->threads();
  const int64_t parts = std::clamp<int64_t>((wanted + kv_heads - 1) / kv_heads, 1, tiles);
  return pool->RunChecked(parts * kv_heads, [&](int64_t task) {
    // The last tiles see the most keys; they go first, so that no worker is left with one.
    const int64_t part = parts - 1 - task / kv_heads;
    return RunTiles(params, input, task % kv_heads, part * tiles / parts,
                    (part + 1) * tiles / parts, out, lse);
  });
}

}  // namespace pqcache::attention
