#include "pqcache/policy/block_selector.h"

#include <algorithm>
#include <span>
#include <vector>

#include "pqcache/base/top_k.h"
#include "pqcache/policy/block_summaries.h"

namespace pqcache {
namespace {

class BlockSelector : public LayerSelector {
 public:
  BlockSelector(const BlockSettings& settings, const SelectorShape& shape)
      : settings_(settings),
        shape_(shape),
        summaries_(static_cast<size_t>(shape.kv_heads),
                   BlockSummaries(settings, shape.group, shape.dim)),
        scores_(static_cast<size_t>(shape.kv_heads)),
        choices_(static_cast<size_t>(shape.kv_heads * shape.group)) {}

  void SetReceived(int head, const ReceivedAttention& received) override {
    summaries_[static_cast<size_t>(head)].SetReceived(received);
  }
  void Append(int head, int64_t n, const float* keys) override {
    summaries_[static_cast<size_t>(head)].Append(n, keys);
  }
  int64_t tokens(int head) const override { return summaries_[static_cast<size_t>(head)].tokens(); }

  void Score(int head, const float* queries, const SelectorStep& step) override {
    if (!chooses()) return;
    const Blocks blocks = BlocksOf(step);
    const int64_t n = blocks.end - blocks.begin;
    std::vector<float>& scores = scores_[static_cast<size_t>(head)];
    scores.assign(static_cast<size_t>(shape_.group * n), 0.0f);
    for (int g = 0; g < shape_.group; ++g) {
      const BlockSummaries* summaries = SummariesFor(head, g);
      if (summaries == nullptr) continue;
      for (int64_t b = 0; b < n; ++b) {
        scores[static_cast<size_t>(g * n + b)] =
            summaries->Score(blocks.begin + b, g, queries + int64_t{g} * shape_.dim);
      }
    }
  }

  void Choose(const SelectorStep& step) override {
    if (chooses()) {
      const Blocks blocks = BlocksOf(step);
      open_begin_ = blocks.end * settings_.block_tokens;
      Preselect(blocks);
      for (int head = 0; head < shape_.kv_heads; ++head) {
        for (int list = 0; list < (per_query() ? shape_.group : 1); ++list) {
          Choice& choice = ChoiceOf(head, list);
          if (settings_.sharing == BlockSharing::kLayer && head > 0) {
            choice.blocks = ChoiceOf(0, 0).blocks;
          } else {
            choice.blocks = Best(head, list, blocks, step);
          }
        }
      }
    }
    ++steps_;
    for (Choice& choice : choices_) Expand(step, &choice);
  }

  bool per_query() const override {
    return settings_.sharing == BlockSharing::kEach && shape_.group > 1;
  }
  std::span<const int64_t> chosen(int head, int query) const override {
    const int list = per_query() ? query : 0;
    return choices_[static_cast<size_t>(head * shape_.group + list)].positions;
  }
  bool fixed_distance() const override { return settings_.fixed_distance; }
  uint64_t bytes() const override {
    uint64_t bytes = 0;
    for (const BlockSummaries& head : summaries_) bytes += head.bytes();
    return bytes;
  }

 private:
  struct Choice {
    std::vector<int64_t> blocks;     // the best one first
    std::vector<int64_t> positions;  // of the last step, ascending
  };
  struct Blocks {
    int64_t begin = 0, end = 0;
  };

  bool chooses() const { return steps_ % settings_.token_step == 0; }
  Choice& ChoiceOf(int head, int list) {
    return choices_[static_cast<size_t>(head * shape_.group + list)];
  }
  // Those with representatives that have candidates in them.
  Blocks BlocksOf(const SelectorStep& step) const {
    const int64_t last = (step.end + settings_.block_tokens - 1) / settings_.block_tokens;
    Blocks blocks{step.begin / settings_.block_tokens, std::min(summaries_[0].blocks(), last)};
    blocks.end = std::max(blocks.end, blocks.begin);
    return blocks;
  }

  // KTransformers fills representatives of smallest and largest for as many of its query heads as
  // there are KV heads, and leaves the others at zero.
  const BlockSummaries* SummariesFor(int head, int g) const {
    if (!settings_.released || settings_.keys != BlockKeys::kMinMax) {
      return &summaries_[static_cast<size_t>(head)];
    }
    const int query_head = head * shape_.group + g;
    return query_head < shape_.kv_heads ? &summaries_[static_cast<size_t>(query_head)] : nullptr;
  }

  // Once, of the blocks of the prompt that can be chosen then; what comes later can be, too.
  void Preselect(const Blocks& blocks) {
    if (settings_.preselect == 0 || !allowed_.empty()) return;
    const int64_t n = blocks.end - blocks.begin;
    std::vector<float> importance(static_cast<size_t>(n), 0.0f);
    for (int64_t b = 0; b < n; ++b) {
      for (const BlockSummaries& head : summaries_) {
        importance[static_cast<size_t>(b)] += head.Importance(blocks.begin + b);
      }
    }
    std::vector<int32_t> scratch;
    std::vector<int64_t> best;
    SelectTopK(importance.data(), n, settings_.preselect, &scratch, &best);
    allowed_.assign(static_cast<size_t>(blocks.end), 0);
    for (const int64_t b : best) allowed_[static_cast<size_t>(blocks.begin + b)] = 1;
  }
  bool Allowed(int64_t block) const {
    return block >= std::ssize(allowed_) || allowed_[static_cast<size_t>(block)] != 0;
  }

  // Score of a block for a list.
  float Joined(int head, int list, int64_t b, int64_t n) const {
    const std::vector<float>& scores = scores_[static_cast<size_t>(head)];
    float joined = scores[static_cast<size_t>((per_query() ? list : 0) * n + b)];
    if (settings_.sharing == BlockSharing::kEach) return joined;
    for (int g = 1; g < shape_.group; ++g) {
      const float score = scores[static_cast<size_t>(g * n + b)];
      joined = settings_.sharing == BlockSharing::kMax ? std::max(joined, score) : joined + score;
    }
    return joined;
  }

  std::vector<int64_t> Best(int head, int list, const Blocks& blocks,
                            const SelectorStep& step) const {
    const int64_t n = blocks.end - blocks.begin;
    std::vector<float> joined;
    std::vector<int64_t> which;
    for (int64_t b = 0; b < n; ++b) {
      if (!Allowed(blocks.begin + b)) continue;
      float score = Joined(head, list, b, n);
      if (settings_.sharing == BlockSharing::kLayer) {
        for (int h = 1; h < shape_.kv_heads; ++h) score += Joined(h, 0, b, n);
      }
      joined.push_back(score);
      which.push_back(blocks.begin + b);
    }
    std::vector<int32_t> scratch;
    std::vector<int64_t> best;
    SelectTopK(joined.data(), std::ssize(joined), BlocksWithin(step), &scratch, &best);
    std::stable_sort(best.begin(), best.end(), [&](int64_t a, int64_t b) {
      return joined[static_cast<size_t>(a)] > joined[static_cast<size_t>(b)];
    });
    for (int64_t& b : best) b = which[static_cast<size_t>(b)];
    return best;
  }

  // How many the budget has room for beside the open tokens, which grow until the next choice.
  int64_t BlocksWithin(const SelectorStep& step) const {
    return std::max(settings_.min_blocks,
                    (step.tokens - OpenTokens(step)) / settings_.block_tokens);
  }

  // Candidates behind the blocks that could be chosen, which are attended to always.
  int64_t OpenTokens(const SelectorStep& step) const {
    return std::max<int64_t>(0, step.end - std::max(open_begin_, step.begin));
  }

  void Expand(const SelectorStep& step, Choice* choice) {
    const auto room = choice->blocks.begin() +
                      std::min<std::ptrdiff_t>(std::ssize(choice->blocks), BlocksWithin(step));
    taken_.assign(choice->blocks.begin(), room);
    std::sort(taken_.begin(), taken_.end());
    choice->positions.clear();
    const auto add = [&](int64_t begin, int64_t end) {
      for (int64_t t = std::max(begin, step.begin); t < std::min(end, step.end); ++t) {
        choice->positions.push_back(t);
      }
    };
    for (const int64_t block : taken_) {
      add(block * settings_.block_tokens, (block + 1) * settings_.block_tokens);
    }
    add(step.end - OpenTokens(step), step.end);
  }

  BlockSettings settings_;
  SelectorShape shape_;
  std::vector<BlockSummaries> summaries_;   // [Hkv]
  std::vector<std::vector<float>> scores_;  // [Hkv][G, blocks]
  std::vector<Choice> choices_;             // [Hkv, G]
  std::vector<char> allowed_;               // [blocks at the first choice]; empty: all
  std::vector<int64_t> taken_;              // blocks of the list that is expanded, ascending
  int64_t open_begin_ = 0;                  // first token behind the blocks of the last choice
  int64_t steps_ = 0;
};

}  // namespace

std::unique_ptr<LayerSelector> CreateBlockSelector(const BlockSettings& settings,
                                                   const SelectorShape& shape) {
  return std::make_unique<BlockSelector>(settings, shape);
}

}  // namespace pqcache
