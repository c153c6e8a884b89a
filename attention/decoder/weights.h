#pragma once

// Weights of a model in memory, by role. Loaded by LoadWeights, immutable afterwards.
//
// L is what a matrix becomes: it has L::Create(weight [out, in], bias [out] or empty, in, out,
// compute), as Linear does.

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

template <typename L>
struct LayerWeightsOf {
  NormWeights attention_norm, mlp_norm, query_norm, key_norm;
  std::optional<L> qkv;                     // [Hq + 2 Hkv, D] outputs: all queries, keys, values
  std::optional<L> output, gate, up, down;  // gate absent: plain MLP
};

template <typename L>
struct ModelWeightsOf {
  std::optional<L> embedding;  // [vocab, hidden]; also the head when tied
  std::optional<L> head;
  NormWeights final_norm;
  std::vector<LayerWeightsOf<L>> layers;
};

using LayerWeights = LayerWeightsOf<Linear>;
using ModelWeights = ModelWeightsOf<Linear>;

// compute: kF32 or kBF16. Weights that are NaN or infinite are refused by name.
Result<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                 DType compute);

}  // namespace pqcache::attention
