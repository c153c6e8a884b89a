#pragma once

// One decode step of a layer on the GPU: append, select, attend. Nothing waits for the host, so a
// step can be recorded into a graph and launched for every later token.
//
// One stream at a time. The cache is borrowed.

#include <memory>

#include "attention/gpu/gpu_kv_cache.h"
#include "attention/kernels/select_tokens.h"
#include "attention/kernels/sparse_decode.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache::attention {

struct GpuAttentionOptions {
  int heads = 0;  // Hq
  std::shared_ptr<const SelectionPolicy> policy;
  SelectionBudget budget;
  bool per_head = false;
  int dense_layers = 0;  // the first so many layers attend exactly
  // Tokens that are not selected join with their estimated mass (TailMode::kEstimate), with one
  // mean value also where the CPU takes one for every 64.
  bool estimate_tail = false;
};

class GpuAttention {
 public:
  // Refuses policies, budgets and shapes that there are no kernels for.
  static Result<std::unique_ptr<GpuAttention>> Create(GpuAttentionOptions options,
                                                      GpuKvCache* cache);

  // queries [B, Hq, D], keys and values [B, Hkv, D] of the newest token, which the cache's count of
  // tokens includes; out [B, Hq, D]. All on the device.
  Status Step(int layer, const float* queries, const float* keys, const float* values, float* out,
              GpuStream stream);
  // The same without the append: for another selection of the same token.
  Status Attend(int layer, const float* queries, float* out, GpuStream stream);
  // The part that chooses the rows.
  Status Select(int layer, const float* queries, GpuStream stream);

  // Whether it chooses rows in this layer.
  bool Selects(int layer) const {
    return choice_ == Choice::kBest && layer >= options_.dense_layers;
  }

  // On the device, of the last Select: see SelectTokensParams.
  const int32_t* positions() const { return positions_.as<int32_t>(); }
  const int32_t* counts() const { return counts_.as<int32_t>(); }
  const float* unselected_lse() const { return unselected_lse_.as<float>(); }
  // [L, B, Hq] on the device: estimated shares of the attention mass that steps did not attend to,
  // summed over all steps so far.
  const float* missed_mass() const { return missed_mass_.as<float>(); }
  // Sets it to zeros.
  Status ClearMissedMass(GpuStream stream);
  bool attends_all() const { return choice_ == Choice::kAll; }
  int lists() const;
  int max_selected() const { return max_selected_; }

 private:
  enum class Choice { kAll, kBest };

  GpuAttention(GpuAttentionOptions options, GpuKvCache* cache, Choice choice);
  Status Allocate();
  Status Decode(int layer, const float* queries, float* out, GpuStream stream);
  SelectTokensParams SelectParams(int layer) const;
  SparseDecodeParams DecodeParams(int layer) const;

  GpuAttentionOptions options_;
  GpuKvCache* cache_;
  Choice choice_;
  int max_selected_ = 0;
  GpuBuffer select_workspace_, decode_workspace_, positions_, counts_, unselected_lse_,
      missed_mass_;
};

}  // namespace pqcache::attention
