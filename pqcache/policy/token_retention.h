#pragma once

// Rules by which a policy drops tokens for good: which tokens of the prompt one KV head keeps, and
// what goes when a token comes. Query heads of a group may keep different tokens; each of these
// selections is a list of positions in ascending order.
//
// One thread at a time. Alphabet: G query heads of the KV head, T tokens of the prompt.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pqcache/policy/layer_selector.h"

namespace pqcache {

struct RetentionShape {
  int group = 0;       // G
  int64_t prompt = 0;  // T
  int64_t n_sink = 0;  // of the command line
  int64_t budget = 0;  // tokens that a step may attend to, in all
};

// Tokens of a list: position, and the attention received so far.
struct KeptTokens {
  std::span<const int64_t> positions;
  std::span<const float> received;
};

class TokenRetention {
 public:
  virtual ~TokenRetention() = default;

  // 1: the query heads keep the same tokens; G: each its own.
  virtual int lists() const { return 1; }
  // Of the prompt's tokens, those that a list keeps: ascending.
  virtual void Begin(int list, const ReceivedAttention& received,
                     std::vector<int64_t>* kept) const = 0;
  // Which entries of a list go so that `coming` tokens can join it: ascending places.
  virtual void Drop(int list, const KeptTokens& kept, int64_t coming,
                    std::vector<size_t>* places) const = 0;
  // So many tokens can come at once without a choice that would have been another one by one.
  virtual int64_t step_tokens() const { return 1; }
  // True: attention that tokens receive while decoding is summed for Drop.
  virtual bool needs_received() const { return false; }
  // The first so many tokens are attended to as if what was dropped behind them had never been:
  // at their place in the list, not in the text. 0: every token keeps its position.
  virtual int64_t moving_sinks() const { return 0; }
};

}  // namespace pqcache
