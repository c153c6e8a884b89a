// SnapKV (Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", NeurIPS 2024).
//
// Once, at the end of the prompt, every query head votes: the attention that the last 32 tokens of
// the prompt pay to each earlier token is summed, smoothed over its neighbours (kernel 5, mean; or
// pool=max), and the tokens with the most votes stay beside those 32. Everything that comes later
// stays, too. What the prompt's end did not look at is forgotten, so a second question about
// something else finds nothing. ratio=R keeps that share of the prompt, tokens=N so many; without
// them as many as a step of other policies attends to. As in the original every query head keeps
// its own tokens; share=mean or max lets those of a KV head vote together, for a store that is G
// times smaller.

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include "pqcache/base/top_k.h"
#include "pqcache/policy/policy_factories.h"
#include "pqcache/policy/retention_size.h"

namespace pqcache {
namespace {

enum class Share { kEach, kMean, kMax };

struct SnapSettings {
  int64_t window = 32, kernel = 5;
  bool max_pool = false;
  Share share = Share::kEach;
};

class PromptVotes : public TokenRetention {
 public:
  PromptVotes(const SnapSettings& settings, const RetentionShape& shape, int64_t size)
      : settings_(settings), group_(shape.group), prompt_(shape.prompt), size_(size) {}

  int lists() const override { return settings_.share == Share::kEach ? group_ : 1; }

  void Begin(int list, const ReceivedAttention& received,
             std::vector<int64_t>* kept) const override {
    const int64_t window = std::min({settings_.window, prompt_, size_});
    const int64_t old = prompt_ - window;
    std::vector<float> votes = Pool(received.sums + list * received.tokens, old);
    for (int g = 1; g < group_ && settings_.share != Share::kEach; ++g) {
      const std::vector<float> more = Pool(received.sums + g * received.tokens, old);
      for (size_t t = 0; t < votes.size(); ++t) {
        // The mean, but for a factor that all tokens share.
        votes[t] =
            settings_.share == Share::kMax ? std::max(votes[t], more[t]) : votes[t] + more[t];
      }
    }
    std::vector<int32_t> scratch;
    SelectTopK(votes.data(), old, size_ - window, &scratch, kept);
    kept->resize(kept->size() + static_cast<size_t>(window));
    std::iota(kept->end() - window, kept->end(), old);
  }

  void Drop(int, const KeptTokens&, int64_t, std::vector<size_t>* places) const override {
    places->clear();
  }
  int64_t step_tokens() const override { return std::numeric_limits<int64_t>::max(); }

 private:
  // Means count zeros beyond either end, as a padded convolution does.
  std::vector<float> Pool(const float* sums, int64_t n) const {
    const int64_t reach = settings_.kernel / 2;
    std::vector<float> pooled(static_cast<size_t>(n));
    for (int64_t t = 0; t < n; ++t) {
      const float* begin = sums + std::max<int64_t>(0, t - reach);
      const float* end = sums + std::min(n, t + reach + 1);
      pooled[static_cast<size_t>(t)] =
          settings_.max_pool
              ? *std::max_element(begin, end)
              : std::accumulate(begin, end, 0.0f) / static_cast<float>(settings_.kernel);
    }
    return pooled;
  }

  SnapSettings settings_;
  int group_;
  int64_t prompt_, size_;
};

class SnapKvPolicy : public DroppingPolicy {
 public:
  SnapKvPolicy(const SnapSettings& settings, RetentionSize size)
      : DroppingPolicy(size), settings_(settings) {}

  PromptNeeds prompt_needs() const override { return {.last = settings_.window}; }
  std::unique_ptr<TokenRetention> NewRetention(const RetentionShape& shape) const override {
    return std::make_unique<PromptVotes>(settings_, shape, size_.Of(shape));
  }

 private:
  SnapSettings settings_;
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreateSnapKvPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"ratio", "tokens", "window", "kernel", "pool", "share"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  constexpr std::string_view kPools[] = {"mean", "max"};
  constexpr std::string_view kShares[] = {"each", "mean", "max"};
  constexpr Share kShareValues[] = {Share::kEach, Share::kMean, Share::kMax};
  SnapSettings settings;
  PQCACHE_ASSIGN_OR_RETURN(const RetentionSize size, RetentionSize::FromSpec(spec));
  PQCACHE_ASSIGN_OR_RETURN(settings.window, spec.IntOr("window", 32));
  PQCACHE_ASSIGN_OR_RETURN(settings.kernel, spec.IntOr("kernel", 5));
  PQCACHE_ASSIGN_OR_RETURN(const size_t pool, spec.ChoiceOr("pool", kPools, 0));
  settings.max_pool = pool == 1;
  PQCACHE_ASSIGN_OR_RETURN(const size_t share, spec.ChoiceOr("share", kShares, 0));
  settings.share = kShareValues[share];
  if (settings.window < 1 || settings.window > 4096 || settings.kernel % 2 == 0 ||
      settings.kernel > 4095) {
    return Status::InvalidArgument("snapkv: window is " + std::to_string(settings.window) +
                                   ", kernel is " + std::to_string(settings.kernel) +
                                   ", expected 1 to 4096 and an odd number up to 4095");
  }
  return std::unique_ptr<SelectionPolicy>(std::make_unique<SnapKvPolicy>(settings, size));
}

}  // namespace pqcache
