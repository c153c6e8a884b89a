#pragma once

// Selection by what a policy remembers of the keys of one layer: a phase in which all KV heads
// score for themselves, then a choice that may look at all of them.
//
// Functions that name a head may run together for different heads; Choose runs alone.
// Alphabet: G query heads of a KV head, D channels.

#include <cstdint>
#include <span>

namespace pqcache {

struct SelectorShape {
  int kv_heads = 0, group = 0, dim = 0;  // Hkv, G, D
};

// Attention that the tokens of the prompt received from each of the G query heads of a KV head.
struct ReceivedAttention {
  const float* sums = nullptr;  // [G, T]; null: not recorded
  int64_t tokens = 0;           // T
};

struct SelectorStep {
  float scale = 0;             // of logits
  int64_t begin = 0, end = 0;  // candidates are tokens [begin, end), all of them appended
  int64_t tokens = 0;          // how many to select, for each list
};

class LayerSelector {
 public:
  virtual ~LayerSelector() = default;

  // Before the first Append; `received` is copied.
  virtual void SetReceived(int /*head*/, const ReceivedAttention& /*received*/) {}
  // The keys [N, D] of the next tokens in order of position, from token 0 on.
  virtual void Append(int head, int64_t n, const float* keys) = 0;
  virtual int64_t tokens(int head) const = 0;

  // queries [G, D] of one token.
  virtual void Score(int head, const float* queries, const SelectorStep& step) = 0;
  // After Score of all heads.
  virtual void Choose(const SelectorStep& step) = 0;

  // True: every query head has a list of its own; otherwise list 0 is that of all.
  virtual bool per_query() const = 0;
  // What was chosen: ascending positions in [begin, end).
  virtual std::span<const int64_t> chosen(int head, int query) const = 0;
  // Turns the exact logits of chosen positions into those that they count with.
  virtual bool adjusts_logits() const { return false; }
  virtual void AdjustLogits(int /*head*/, int /*query*/, std::span<const int64_t> /*positions*/,
                            float* /*logits*/) const {}

  // True: keys are given, queries are scored and chosen tokens are attended to as if all of them
  // were equally far away, the local window's length (InfLLM); keys come un-rotated.
  virtual bool fixed_distance() const { return false; }
  virtual uint64_t bytes() const = 0;
};

}  // namespace pqcache
