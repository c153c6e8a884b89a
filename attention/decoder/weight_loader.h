#pragma once

// How weights.h is filled, for any kind of matrix.

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "attention/decoder/weights.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {

// Reads the matrices and norms of a checkpoint by role.
template <typename L>
class WeightLoader {
 public:
  WeightLoader(const ModelSpec& spec, const Checkpoint& checkpoint, DType compute)
      : spec_(spec), checkpoint_(checkpoint), compute_(compute) {}

  Result<std::vector<float>> Floats(const std::string& name) const {
    PQCACHE_ASSIGN_OR_RETURN(std::vector<float> values, checkpoint_.ReadFloats(name));
    if (!AllFinite(values.data(), static_cast<int64_t>(values.size()))) {
      return Status::InvalidArgument(name + " has numbers that are NaN or infinite");
    }
    return values;
  }

  Status Norm(const std::string& module, NormWeights* norm) const {
    if (module.empty()) return Status::Ok();
    PQCACHE_ASSIGN_OR_RETURN(norm->weight, Floats(module + ".weight"));
    // Norms per head are RMS norms in every family that has them.
    if (spec_.norm == NormKind::kLayer) {
      PQCACHE_ASSIGN_OR_RETURN(norm->bias, Floats(module + ".bias"));
    }
    return Status::Ok();
  }

  Status Matrix(const std::string& module, int64_t in, int64_t out, bool bias,
                std::optional<L>* linear) const {
    if (module.empty()) return Status::Ok();
    PQCACHE_ASSIGN_OR_RETURN(std::vector<float> weight, Floats(module + ".weight"));
    std::vector<float> offsets;
    if (bias) {
      PQCACHE_ASSIGN_OR_RETURN(offsets, Floats(module + ".bias"));
    }
    PQCACHE_ASSIGN_OR_RETURN(*linear,
                             L::Create(std::move(weight), std::move(offsets), in, out, compute_));
    return Status::Ok();
  }

  Status QueryKeyValue(int64_t layer, std::optional<L>* linear) const {
    std::vector<float> weight, bias;
    if (spec_.names.fused_qkv.empty()) {
      for (const std::string* pattern :
           {&spec_.names.query, &spec_.names.key, &spec_.names.value}) {
        const std::string module = ModuleFor(*pattern, layer);
        PQCACHE_RETURN_IF_ERROR(AppendTo(module + ".weight", &weight));
        if (spec_.qkv_bias) PQCACHE_RETURN_IF_ERROR(AppendTo(module + ".bias", &bias));
      }
    } else {
      const std::string module = ModuleFor(spec_.names.fused_qkv, layer);
      PQCACHE_ASSIGN_OR_RETURN(weight, Floats(module + ".weight"));
      weight = Unfuse(weight, spec_.hidden);
      if (spec_.qkv_bias) {
        PQCACHE_ASSIGN_OR_RETURN(bias, Floats(module + ".bias"));
        bias = Unfuse(bias, 1);
      }
    }
    const int64_t out = int64_t{spec_.heads + 2 * spec_.kv_heads} * spec_.head_dim;
    PQCACHE_ASSIGN_OR_RETURN(
        *linear, L::Create(std::move(weight), std::move(bias), spec_.hidden, out, compute_));
    return Status::Ok();
  }

 private:
  Status AppendTo(const std::string& name, std::vector<float>* values) const {
    PQCACHE_ASSIGN_OR_RETURN(const std::vector<float> more, Floats(name));
    values->insert(values->end(), more.begin(), more.end());
    return Status::Ok();
  }

  // [heads, 3, D, columns] to [3, heads, D, columns].
  std::vector<float> Unfuse(const std::vector<float>& fused, int64_t columns) const {
    const int64_t block = spec_.head_dim * columns;
    std::vector<float> split(fused.size());
    for (int64_t head = 0; head < spec_.heads; ++head) {
      for (int64_t part = 0; part < 3; ++part) {
        std::copy_n(fused.begin() + (head * 3 + part) * block, block,
                    split.begin() + (part * spec_.heads + head) * block);
      }
    }
    return split;
  }

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  DType compute_;
};

template <typename L>
Status LoadLayer(const WeightLoader<L>& loader, const ModelSpec& s, int64_t layer,
                 LayerWeightsOf<L>* w) {
  const auto name = [layer](const std::string& pattern) { return ModuleFor(pattern, layer); };
  const ModuleNames& names = s.names;
  PQCACHE_RETURN_IF_ERROR(loader.Norm(name(names.attention_norm), &w->attention_norm));
  PQCACHE_RETURN_IF_ERROR(loader.Norm(name(names.mlp_norm), &w->mlp_norm));
  PQCACHE_RETURN_IF_ERROR(loader.Norm(name(names.query_norm), &w->query_norm));
  PQCACHE_RETURN_IF_ERROR(loader.Norm(name(names.key_norm), &w->key_norm));
  PQCACHE_RETURN_IF_ERROR(loader.QueryKeyValue(layer, &w->qkv));
  PQCACHE_RETURN_IF_ERROR(loader.Matrix(name(names.output), int64_t{s.heads} * s.head_dim, s.hidden,
                                        s.output_bias, &w->output));
  PQCACHE_RETURN_IF_ERROR(
      loader.Matrix(name(names.gate), s.hidden, s.intermediate, s.mlp_bias, &w->gate));
  PQCACHE_RETURN_IF_ERROR(
      loader.Matrix(name(names.up), s.hidden, s.intermediate, s.mlp_bias, &w->up));
  return loader.Matrix(name(names.down), s.intermediate, s.hidden, s.mlp_bias, &w->down);
}

template <typename L>
Result<ModelWeightsOf<L>> LoadWeightsAs(const ModelSpec& spec, const Checkpoint& checkpoint,
                                        DType compute) {
  const WeightLoader<L> loader(spec, checkpoint, compute);
  ModelWeightsOf<L> weights;
  PQCACHE_RETURN_IF_ERROR(
      loader.Matrix(spec.names.embedding, spec.hidden, spec.vocab, false, &weights.embedding));
  if (!spec.tied_head) {
    PQCACHE_RETURN_IF_ERROR(
        loader.Matrix(spec.names.head, spec.hidden, spec.vocab, false, &weights.head));
  }
  PQCACHE_RETURN_IF_ERROR(loader.Norm(spec.names.final_norm, &weights.final_norm));
  weights.layers.resize(static_cast<size_t>(spec.layers));
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    PQCACHE_RETURN_IF_ERROR(
        LoadLayer(loader, spec, layer, &weights.layers[static_cast<size_t>(layer)]));
  }
  return weights;
}

}  // namespace pqcache::attention
