#include "attention/model/weight_check.h"

#include <map>
#include <string>
#include <vector>

namespace pqcache::attention {
namespace {

using Shape = std::vector<int64_t>;

struct Expected {
  Shape shape;
  bool optional = false;
};

using ExpectedTensors = std::map<std::string, Expected, std::less<>>;

// A linear map, [out, in], with a bias of [out].
void AddLinear(const std::string& module, int64_t out, int64_t in, bool bias,
               ExpectedTensors* tensors) {
  if (module.empty()) return;
  (*tensors)[module + ".weight"] = {{out, in}};
  if (bias) (*tensors)[module + ".bias"] = {{out}};
}

void AddNorm(const std::string& module, int64_t width, NormKind kind, ExpectedTensors* tensors) {
  if (module.empty()) return;
  (*tensors)[module + ".weight"] = {{width}};
  if (kind == NormKind::kLayer) (*tensors)[module + ".bias"] = {{width}};
}

void AddLayer(const ModelSpec& spec, int64_t layer, ExpectedTensors* out) {
  const auto module = [layer](const std::string& pattern) { return ModuleFor(pattern, layer); };
  const ModuleNames& names = spec.names;
  const int64_t hidden = spec.hidden;
  const int64_t inner = spec.intermediate;
  const int64_t queries = int64_t{spec.heads} * spec.head_dim;
  const int64_t keys = int64_t{spec.kv_heads} * spec.head_dim;
  AddNorm(module(names.attention_norm), hidden, spec.norm, out);
  AddNorm(module(names.mlp_norm), hidden, spec.norm, out);
  AddLinear(module(names.query), queries, hidden, spec.qkv_bias, out);
  AddLinear(module(names.key), keys, hidden, spec.qkv_bias, out);
  AddLinear(module(names.value), keys, hidden, spec.qkv_bias, out);
  AddLinear(module(names.fused_qkv), queries + 2 * keys, hidden, spec.qkv_bias, out);
  AddLinear(module(names.output), hidden, queries, spec.output_bias, out);
  AddNorm(module(names.query_norm), spec.head_dim, NormKind::kRms, out);
  AddNorm(module(names.key_norm), spec.head_dim, NormKind::kRms, out);
  AddLinear(module(names.gate), inner, hidden, spec.mlp_bias, out);
  AddLinear(module(names.up), inner, hidden, spec.mlp_bias, out);
  AddLinear(module(names.down), hidden, inner, spec.mlp_bias, out);
}

ExpectedTensors ExpectedOf(const ModelSpec& spec) {
  ExpectedTensors tensors;
  AddLinear(spec.names.embedding, spec.vocab, spec.hidden, false, &tensors);
  AddNorm(spec.names.final_norm, spec.hidden, spec.norm, &tensors);
  tensors[spec.names.head + ".weight"] = {{spec.vocab, spec.hidden}, spec.tied_head};
  for (int64_t layer = 0; layer < spec.layers; ++layer) AddLayer(spec, layer, &tensors);
  return tensors;
}

bool IsIgnoredBuffer(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".attention.masked_bias");
}

bool IsFloating(const TensorInfo& info) {
  return info.readable && (info.dtype == DType::kF32 || info.dtype == DType::kBF16 ||
                           info.dtype == DType::kF16 || info.dtype == DType::kF64);
}

std::string ShapeText(const Shape& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

}  // namespace

Status CheckWeights(const ModelSpec& spec, const Checkpoint& checkpoint) {
  const ExpectedTensors expected = ExpectedOf(spec);
  std::vector<std::string> faults;
  for (const auto& [name, want] : expected) {
    const TensorInfo* info = checkpoint.Find(name);
    if (info == nullptr) {
      if (!want.optional) faults.push_back(name + " is missing, expected " + ShapeText(want.shape));
      continue;
    }
    if (info->shape != want.shape) {
      faults.push_back(name + " has shape " + ShapeText(info->shape) + ", expected " +
                       ShapeText(want.shape));
    }
    if (!IsFloating(*info)) {
      faults.push_back(name + " has dtype " + info->dtype_name +
                       ", expected F32, BF16, F16 or F64");
    }
  }
  for (const auto& [name, info] : checkpoint.tensors()) {
    if (expected.contains(name) || IsIgnoredBuffer(name)) continue;
    faults.push_back(name + " " + ShapeText(info.shape) + " is unknown, expected no such tensor");
  }
  if (faults.empty()) return Status::Ok();
  std::string message = "weights and configuration (" + spec.family + ") differ in " +
                        std::to_string(faults.size()) +
                        (faults.size() == 1 ? " place:" : " places:");
  for (const std::string& fault : faults) message += "\n  " + fault;
  return Status::InvalidArgument(std::move(message));
}

}  // namespace pqcache::attention
