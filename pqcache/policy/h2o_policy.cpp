// H2O (Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language
// Models", NeurIPS 2023).
//
// Every query head keeps its newest tokens and, of the older ones, the heavy hitters: those that
// received the most attention, summed over all tokens so far. What falls out is forgotten. Half of
// the tokens are heavy hitters, as in the original (ten percent of the prompt each); heavy=S says
// another share. ratio=R keeps that share of the prompt, tokens=N so many; without them it keeps as
// many as a step of other policies attends to. State: keys and values of the kept tokens, a sum for
// each. Unlike the original's simulation by a mask, tokens are really dropped, and one that has
// just left the newest ones is never invisible for a step.

#include <algorithm>
#include <numeric>

#include "pqcache/base/top_k.h"
#include "pqcache/policy/policy_factories.h"
#include "pqcache/policy/retention_size.h"

namespace pqcache {
namespace {

class HeavyHitters : public TokenRetention {
 public:
  HeavyHitters(int group, int64_t prompt, int64_t size, int64_t recent)
      : group_(group), prompt_(prompt), size_(size), recent_(recent) {}

  int lists() const override { return group_; }

  void Begin(int list, const ReceivedAttention& received,
             std::vector<int64_t>* kept) const override {
    const int64_t recent = std::min(prompt_, recent_), old = prompt_ - recent;
    std::vector<int32_t> scratch;
    SelectTopK(received.sums + list * received.tokens, old, size_ - recent, &scratch, kept);
    kept->resize(kept->size() + static_cast<size_t>(recent));
    std::iota(kept->end() - recent, kept->end(), old);
  }

  void Drop(int, const KeptTokens& kept, int64_t coming,
            std::vector<size_t>* places) const override {
    const int64_t tokens = std::ssize(kept.positions);
    const int64_t old = std::max<int64_t>(0, tokens - std::max<int64_t>(0, recent_ - coming));
    const int64_t dropped = std::clamp<int64_t>(tokens + coming - size_, 0, old);
    std::vector<float> lightness(static_cast<size_t>(old));
    for (int64_t i = 0; i < old; ++i) {
      // Of equal sums the later token goes: SelectTopK takes the lower place.
      lightness[static_cast<size_t>(i)] = -kept.received[static_cast<size_t>(old - 1 - i)];
    }
    std::vector<int32_t> scratch;
    std::vector<int64_t> lightest;
    SelectTopK(lightness.data(), old, dropped, &scratch, &lightest);
    places->clear();
    for (const int64_t i : lightest) places->push_back(static_cast<size_t>(old - 1 - i));
    std::sort(places->begin(), places->end());
  }

  bool needs_received() const override { return true; }

 private:
  int group_;
  int64_t prompt_, size_, recent_;
};

class H2oPolicy : public DroppingPolicy {
 public:
  H2oPolicy(RetentionSize size, double heavy) : DroppingPolicy(size), heavy_(heavy) {}

  PromptNeeds prompt_needs() const override { return {.all = true}; }
  std::unique_ptr<TokenRetention> NewRetention(const RetentionShape& shape) const override {
    const int64_t size = size_.Of(shape);
    const int64_t heavy =
        std::min(size - 1, static_cast<int64_t>(heavy_ * static_cast<double>(size)));
    return std::make_unique<HeavyHitters>(shape.group, shape.prompt, size, size - heavy);
  }

 private:
  double heavy_;
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreateH2oPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"ratio", "tokens", "heavy"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  PQCACHE_ASSIGN_OR_RETURN(const RetentionSize size, RetentionSize::FromSpec(spec));
  PQCACHE_ASSIGN_OR_RETURN(const double heavy, spec.ShareOr("heavy", 0.5));
  return std::unique_ptr<SelectionPolicy>(std::make_unique<H2oPolicy>(size, heavy));
}

}  // namespace pqcache
