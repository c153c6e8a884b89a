#pragma once

// Attention over a KvCache: exact prefill, decode under a policy. One sequence, one caller thread;
// work is spread over KV heads by the pool. All borrowed objects must outlive it.

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/attention_stats.h"
#include "attention/head_memory.h"
#include "attention/head_step.h"
#include "attention/model/rope.h"
#include "attention/prompt_record.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/kv_cache.h"

namespace pqcache::attention {

struct CacheAttentionOptions {
  int heads = 0;  // Hq
  std::shared_ptr<const SelectionPolicy> policy;
  SelectionBudget budget;
  bool per_head = false;
  TailMode tail = TailMode::kDrop;
  bool widen_misfit = false;   // see HeadStepConfig
  int dense_layers = 0;        // the first so many layers attend exactly
  int shadow_every = 0;        // every n-th step of one token is judged by exact attention; 0: none
  int64_t sliding_window = 0;  // of the model
  std::shared_ptr<const Rope> rope;  // of the model; for policies that change distances
  PromptNeeds needs;                 // to record beside those of the policy, for forks
};

class CacheAttention : public AttentionBackend {
 public:
  // Refuses a policy whose scores the cache does not keep, and a budget out of range. `record` is
  // of the prompt that the cache holds, if any; it is recorded on.
  static Result<std::unique_ptr<CacheAttention>> Create(
      CacheAttentionOptions options, KvCache* cache, ThreadPool* pool,
      std::shared_ptr<PromptRecord> record = nullptr);

  // Rows of the next calls are a chunk of the prompt (true, exact) or the tokens of one decode step
  // (false): they select together, at most MaxStepTokens of them.
  void set_prefill(bool prefill) { prefill_ = prefill; }

  // With so many tokens in the cache. Keeps three quarters of the window in front of every token of
  // a step, and the scores of a step in 16 MiB per KV head.
  int64_t MaxStepTokens(int64_t context) const;

  Status Attend(const AttentionInput& input, float* out) override;

  const AttentionStats& stats() const { return stats_; }
  KvCache* cache() const { return cache_; }
  // What steps leave to the next ones [layers, Hkv]: a sequence begins without, also one that
  // continues a stored context; a fork goes on with its parent's.
  const std::vector<HeadMemory>& memory() const { return memory_; }
  void set_memory(std::vector<HeadMemory> memory) { memory_ = std::move(memory); }
  // What was recorded of the prompt; null if nothing was to be.
  const std::shared_ptr<PromptRecord>& record() const { return record_; }
  // Memory of the policy's own, the record included if it needs one.
  uint64_t policy_bytes() const;

 private:
  CacheAttention(CacheAttentionOptions options, KvCache* cache, ThreadPool* pool,
                 std::shared_ptr<PromptRecord> record);
  Status Prefill(const AttentionInput& input, float* out);
  // The input with keys and values rounded as the cache stores them, so that a token attends to
  // the same numbers whether they come from its own chunk or from the cache. Valid until the next
  // call.
  AttentionInput AsStored(const AttentionInput& input);
  PrefillParams Params() const { return {cache_, options_.heads, options_.sliding_window}; }
  bool Dense(int layer) const;
  int ChooserFor(int layer) const;
  Result<HeadStepConfig> ConfigFor(const AttentionInput& input);
  // Tells the layer's selector of tokens that have left the window, and lets it choose.
  Status Choose(const AttentionInput& input, LayerSelector* selector);
  Status Remember(int layer, int64_t prompt, LayerSelector* selector);
  // Norms of the tokens of a layer that have left the window.
  Status MeasureResiduals(int layer);
  // Gives `append` the keys [N, D] of a head's paged tokens from `begin` on, in parts.
  Status ReadPagedKeys(
      int layer, int head, int64_t begin,
      const std::function<void(int64_t begin, int64_t n, float* keys)>& append) const;
  Status Decode(const AttentionInput& input, float* out);
  void PrefetchNextLayer(int layer);
  Status ReadAndAdd(int layer);
  Status Shadow(const AttentionInput& input, const HeadStepConfig& config, const float* out);

  CacheAttentionOptions options_;
  KvCache* cache_;
  ThreadPool* pool_;
  std::unique_ptr<SelectionPolicy> exact_;
  std::shared_ptr<PromptRecord> record_;  // may be null
  bool has_selectors_;
  std::vector<std::unique_ptr<LayerSelector>> selectors_;  // [layers], as they are needed
  std::vector<bool> begun_;                                // [layers]: the selector has the record
  bool prefill_ = true;
  int64_t decoded_ = 0;                   // tokens
  std::vector<HeadStep> steps_;           // [Hkv]
  std::vector<float> queries_, outputs_;  // [Hkv, N, G, D] of the running step
  std::vector<PageRead> reads_;
  std::vector<std::vector<PageKey>> wanted_;          // [layers], pages of the last decode step
  std::vector<float> rounded_keys_, rounded_values_;  // [N, Hkv, D]
  std::vector<HeadMemory> memory_;                    // [layers, Hkv]
  AttentionStats stats_;
};

}  // namespace pqcache::attention
