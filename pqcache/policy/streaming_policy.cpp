// StreamingLLM (Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR
// 2024).
//
// Keeps the first n_sink tokens and the newest ones, and forgets what lies between. The oldest of
// the newest go before a token comes. Positions are places in the cache, not in the text: the
// distance to the first tokens stops growing, so a stream can be as long as one likes
// (positions=text keeps those of the text). All heads keep the same tokens; the prompt itself is
// run exactly. Without parameters it keeps as many tokens as a step of other policies attends to:
// first tokens, window and budget; ratio=R keeps that share of the prompt, tokens=N so many.

#include <algorithm>
#include <numeric>
#include <string>

#include "pqcache/policy/policy_factories.h"
#include "pqcache/policy/retention_size.h"

namespace pqcache {
namespace {

class NewestTokens : public TokenRetention {
 public:
  NewestTokens(int64_t prompt, int64_t sinks, int64_t size, bool places)
      : prompt_(prompt), sinks_(std::min(sinks, size - 1)), size_(size), places_(places) {}

  void Begin(int, const ReceivedAttention&, std::vector<int64_t>* kept) const override {
    kept->resize(static_cast<size_t>(std::min(prompt_, size_)));
    std::iota(kept->begin(), kept->end(), prompt_ - std::ssize(*kept));
    std::iota(kept->begin(), kept->begin() + std::min(sinks_, prompt_), 0);
  }
  void Drop(int, const KeptTokens& kept, int64_t coming,
            std::vector<size_t>* places) const override {
    const int64_t tokens = std::ssize(kept.positions);
    const int64_t sinks = std::min(sinks_, tokens);
    const int64_t dropped = std::clamp<int64_t>(tokens + coming - size_, 0, tokens - sinks);
    places->resize(static_cast<size_t>(dropped));
    std::iota(places->begin(), places->end(), static_cast<size_t>(sinks));
  }
  // Three quarters of the newest tokens stay in front of every token.
  int64_t step_tokens() const override { return std::max<int64_t>(1, (size_ - sinks_) / 4); }
  int64_t moving_sinks() const override { return places_ ? sinks_ : 0; }

 private:
  int64_t prompt_, sinks_, size_;
  bool places_;
};

class StreamingPolicy : public DroppingPolicy {
 public:
  StreamingPolicy(RetentionSize size, int64_t n_sink, bool places)
      : DroppingPolicy(size), n_sink_(n_sink), places_(places) {}

  bool bounds_distances() const override { return places_; }
  std::unique_ptr<TokenRetention> NewRetention(const RetentionShape& shape) const override {
    const int64_t sinks = n_sink_ < 0 ? shape.n_sink : n_sink_;
    return std::make_unique<NewestTokens>(shape.prompt, sinks, size_.Of(shape), places_);
  }

 private:
  int64_t n_sink_;  // -1: that of the command line
  bool places_;
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreateStreamingPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"n_sink", "ratio", "tokens", "positions"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  constexpr std::string_view kPositions[] = {"cache", "text"};
  PQCACHE_ASSIGN_OR_RETURN(const RetentionSize size, RetentionSize::FromSpec(spec));
  PQCACHE_ASSIGN_OR_RETURN(const int64_t n_sink, spec.IntOr("n_sink", -1));
  PQCACHE_ASSIGN_OR_RETURN(const size_t positions, spec.ChoiceOr("positions", kPositions, 0));
  return std::unique_ptr<SelectionPolicy>(
      std::make_unique<StreamingPolicy>(size, n_sink, positions == 0));
}

// The local baseline of H2O: the newest tokens and nothing else, first tokens neither.
Result<std::unique_ptr<SelectionPolicy>> CreateRecentPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"ratio", "tokens"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  PQCACHE_ASSIGN_OR_RETURN(const RetentionSize size, RetentionSize::FromSpec(spec));
  return std::unique_ptr<SelectionPolicy>(std::make_unique<StreamingPolicy>(size, 0, false));
}

}  // namespace pqcache
