#pragma once

// Decode steps under a policy that drops tokens: what is kept lies in memory, and nothing else is.
// One sequence, one caller thread; work is spread over KV heads by the pool. Pool and rope are
// borrowed; the cache and the record of the prompt are read by Create alone.

#include <memory>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/attention_stats.h"
#include "attention/cache_attention.h"
#include "attention/prompt_record.h"
#include "attention/retained_head.h"

namespace pqcache::attention {

class RetainedAttention : public AttentionBackend {
 public:
  // Continues the prompt in `prompt`, which may be empty. `record` may be null for a policy that
  // needs none. Dense layers keep everything. InvalidArgument for options without a meaning here:
  // a budget of mass, a tail estimate, shadow steps.
  static Result<std::unique_ptr<RetainedAttention>> Create(CacheAttentionOptions options,
                                                           const KvCache& prompt,
                                                           const PromptRecord* record,
                                                           ThreadPool* pool);

  // What Create would refuse whatever the prompt.
  static Status CheckOptions(const CacheAttentionOptions& options);
  // Under these options a sequence may be longer than the model's positions.
  static bool BoundsDistances(const CacheAttentionOptions& options) {
    return options.policy->bounds_distances() && options.dense_layers == 0;
  }

  Status Attend(const AttentionInput& input, float* out) override;
  // First tokens that move along keep every distance within the window.
  bool bounds_distances() const override { return bounds_distances_; }

  // Of a step: with a choice that depends on every token, one.
  int64_t MaxStepTokens() const { return max_step_tokens_; }

  const AttentionStats& stats() const { return stats_; }
  uint64_t bytes() const;
  const RetainedHead& head(int layer, int kv_head) const {
    return heads_[static_cast<size_t>(layer * kv_heads_ + kv_head)];
  }

 private:
  RetainedAttention(CacheAttentionOptions options, const KvCache& prompt, ThreadPool* pool);
  Status FillLayer(const KvCache& prompt, const PromptRecord* record, int layer);
  std::unique_ptr<TokenRetention> Retention(int layer, const RetentionShape& shape) const;

  CacheAttentionOptions options_;
  ThreadPool* pool_;
  int layers_, kv_heads_, dim_;
  DType dtype_;
  bool bounds_distances_;
  int64_t max_step_tokens_ = 64;
  std::vector<RetainedHead> heads_;  // [L, Hkv]
  AttentionStats stats_;
};

}  // namespace pqcache::attention
