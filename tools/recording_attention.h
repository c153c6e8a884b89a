#pragma once

// Attention backends that pass everything on and keep what training needs: samples of keys and
// queries, or a whole held-out sequence. Borrowed objects must outlive them.

#include <algorithm>
#include <cstdint>

#include "attention/attention_backend.h"
#include "attention/model/model_spec.h"
#include "train/codebook_judge.h"
#include "train/key_sampler.h"

namespace pqcache::tools {

class SamplingAttention : public attention::AttentionBackend {
 public:
  SamplingAttention(attention::AttentionBackend* inner, train::KeySampler* sampler)
      : inner_(inner), sampler_(sampler) {}

  Status Attend(const attention::AttentionInput& input, float* out) override {
    sampler_->Add(input.layer, input.n, input.positions, input.keys, input.queries);
    return inner_->Attend(input, out);
  }

 private:
  attention::AttentionBackend* inner_;
  train::KeySampler* sampler_;
};

// Keeps all keys of a sequence of `tokens` tokens and the queries of its last `judged` ones.
class HeldOutRecorder : public attention::AttentionBackend {
 public:
  HeldOutRecorder(const attention::ModelSpec& spec, int64_t tokens, int64_t judged)
      : first_judged_(std::max<int64_t>(0, tokens - judged)) {
    held_out_.kv_heads = spec.kv_heads;
    held_out_.group = spec.group();
    held_out_.dim = spec.head_dim;
    held_out_.tokens = tokens;
    held_out_.layers.resize(static_cast<size_t>(spec.layers));
    for (int64_t t = first_judged_; t < tokens; ++t) held_out_.query_positions.push_back(t);
  }

  void set_inner(attention::AttentionBackend* inner) { inner_ = inner; }
  const train::HeldOut& held_out() const { return held_out_; }

  Status Attend(const attention::AttentionInput& input, float* out) override {
    train::HeldOutLayer& layer = held_out_.layers[static_cast<size_t>(input.layer)];
    const int64_t kv_size = int64_t{held_out_.kv_heads} * held_out_.dim;
    layer.keys.insert(layer.keys.end(), input.keys, input.keys + input.n * kv_size);
    const int64_t q_size = kv_size * held_out_.group;
    for (int64_t i = 0; i < input.n; ++i) {
      if (input.positions[i] < first_judged_) continue;
      layer.queries.insert(layer.queries.end(), input.queries + i * q_size,
                           input.queries + (i + 1) * q_size);
    }
    return inner_->Attend(input, out);
  }

 private:
  int64_t first_judged_;
  train::HeldOut held_out_;
  attention::AttentionBackend* inner_ = nullptr;
};

}  // namespace pqcache::tools
