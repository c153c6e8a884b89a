#pragma once

// Weights of a model in memory, by role. Loaded by LoadWeights, immutable afterwards.

#include <memory>
#include <optional>
#include <vector>

#include "attention/model/checkpoint.h"
#include "attention/model/model_spec.h"
#include "attention/torch/linear.h"

namespace pqcache::attention {

struct NormWeights {
  std::vector<float> weight;  // [size]; empty: no norm
  std::vector<float> bias;    // [size], or empty for an RMS norm
};

struct LayerWeights {
  NormWeights attention_norm, mlp_norm, query_norm, key_norm;
  std::optional<Linear> qkv;  // [Hq + 2 Hkv, D] outputs: all queries, all keys, all values
  std::optional<Linear> output, gate, up, down;  // gate absent: plain MLP
};

struct ModelWeights {
  std::optional<Linear> embedding;  // [vocab, hidden]; also the head when tied
  std::optional<Linear> head;
  NormWeights final_norm;
  std::vector<LayerWeights> layers;
};

// compute: kF32 or kBF16. Weights that are NaN or infinite are refused by name.
Result<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                 DType compute);

}  // namespace pqcache::attention
