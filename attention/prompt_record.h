#pragma once

// What policies have to know about how the tokens of the prompt attended to one another (see
// PromptNeeds): summed while the prompt runs, chunk by chunk. One thread at a time while it is
// written; read by any number of sequences that continue the prompt.

#include <cstdint>
#include <vector>

#include "attention/prefill_attention.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache::attention {

class PromptRecord {
 public:
  PromptRecord(const PromptNeeds& needs, int layers, int heads)
      : needs_(needs), heads_(heads), layers_(static_cast<size_t>(layers)) {}

  // Of the parts that these needs are about.
  uint64_t bytes_for(const PromptNeeds& needs) const;
  // Time that the other parts have taken.
  double unneeded_ms(const PromptNeeds& needs) const {
    return (needs.all ? 0 : all_ms_) + (needs.local ? 0 : local_ms_);
  }

  // A chunk of the prompt has been attended exactly and is in the cache. lse: [N, Hq].
  // InvalidArgument if it does not begin where the last one ended.
  Status Add(const PrefillParams& params, const AttentionInput& input, const float* lse,
             ThreadPool* pool);

  // Of a layer whose prompt of `tokens` tokens is in params.cache, the attention that every token
  // received, [Hq, tokens]. `needs` asks for one thing. InvalidArgument if that was not recorded.
  Result<std::vector<float>> Received(const PrefillParams& params, const PromptNeeds& needs,
                                      int layer, int64_t tokens, ThreadPool* pool) const;

 private:
  struct Layer {
    int64_t tokens = 0;
    std::vector<float> all, local;  // [Hq, tokens]
    // Of the last tokens, at most needs.last.
    std::vector<float> last_queries;  // [N, Hq, D]
    std::vector<float> last_lse;      // [N, Hq]
  };
  void Widen(int64_t tokens, Layer* layer) const;
  void KeepLast(const AttentionInput& input, int64_t dim, const float* lse, Layer* layer) const;

  PromptNeeds needs_;
  double all_ms_ = 0, local_ms_ = 0;
  int heads_;
  std::vector<Layer> layers_;
};

}  // namespace pqcache::attention
