#pragma once

// Everything a forward pass may branch on, as data. A family (llama.cpp, ...) turns config.json
// into a ModelSpec; the decoder reads the fields and never a family's name.
// Plain data; no torch here.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

struct RopeSpec {
  enum class Kind { kDefault, kLinear, kLlama3 };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  int rotary_dim = 0;  // leading channels that rotate; pairs are (i, i + rotary_dim / 2)
  double factor = 1.0;
  double low_freq_factor = 1.0;        // kLlama3
  double high_freq_factor = 4.0;       // kLlama3
  int64_t original_max_positions = 0;  // kLlama3
};

enum class NormKind { kRms, kLayer };
enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

// Names of modules in the checkpoint, without ".weight" or ".bias"; "{}" stands for the layer.
// An empty name means that the model has no such module.
struct ModuleNames {
  std::string embedding, final_norm, head;
  std::string attention_norm, mlp_norm;
  std::string query, key, value;  // separate projections, or
  std::string fused_qkv;          // one [heads, 3, D] projection (GPT-NeoX)
  std::string output;
  std::string query_norm, key_norm;  // RMS norm per head, before the rotation (Qwen3)
  std::string gate, up, down;        // gate empty: plain MLP, down(act(up(x)))
};

struct ModelSpec {
  std::string family;
  int64_t layers = 0, hidden = 0, intermediate = 0, vocab = 0, max_positions = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;  // Hq, Hkv, D
  double norm_eps = 1e-5;
  NormKind norm = NormKind::kRms;
  Activation activation = Activation::kSilu;
  bool parallel_residual = false;  // x + attention(norm1(x)) + mlp(norm2(x))
  bool tied_head = false;          // logits use the embedding matrix
  bool qkv_bias = false, output_bias = false, mlp_bias = false;  // LayerNorm always has a bias
  int64_t sliding_window = 0;  // a token attends to itself and the window - 1 before; 0: to all
  RopeSpec rope;
  ModuleNames names;
  int64_t bos_token = -1;           // -1: none
  std::vector<int64_t> eos_tokens;  // may be empty
  std::string checkpoint_dtype;     // as declared: "float32", "bfloat16", "float16" or ""

  int group() const { return heads / kv_heads; }
};

// One row of the list in families.cpp.
struct ModelFamily {
  std::string_view model_type;    // config.json "model_type"
  std::string_view architecture;  // the one entry of "architectures"
  Status (*parse)(const Json& config, ModelSpec* spec);
};

// From a parsed config.json: finds the family by model_type (error lists the known ones), parses,
// and checks every limit (layers, heads <= 1024; kv_heads divides heads; head_dim even in
// [8, 512]; vocab <= 2^21; positions <= 2^26). Both dialects: rope_theta + rope_scaling +
// torch_dtype, and rope_parameters + dtype. An unknown rope type is refused by name.
Result<ModelSpec> ParseModelConfig(const Json& config);

// Reads DIR/config.json and DIR/generation_config.json (optional: its eos ids replace).
Result<ModelSpec> LoadModelSpec(const std::string& model_dir);

// The module that a pattern of ModuleNames means in one layer: "{}" becomes the number. Patterns
// without "{}" are returned as they are.
std::string ModuleFor(const std::string& pattern, int64_t layer);

}  // namespace pqcache::attention
