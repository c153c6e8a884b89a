#include "attention/model/config_reader.h"

#include <string>

namespace pqcache::attention {
namespace {

std::string Quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

Status OutOfRange(std::string_view key, int64_t found, int64_t min, int64_t max) {
  return Status::InvalidArgument(Quoted(key) + " is " + std::to_string(found) + ", expected " +
                                 std::to_string(min) + " to " + std::to_string(max));
}

bool Absent(const Json& config, std::string_view key) {
  const Json* value = config.Find(key);
  return value == nullptr || value->is_null();
}

Status ReadHeads(const Json& config, ModelSpec* spec) {
  PQCACHE_ASSIGN_OR_RETURN(const int64_t heads,
                           ReadInt(config, "num_attention_heads", 1, kMaxHeads));
  int64_t kv_heads = heads;
  if (!Absent(config, "num_key_value_heads")) {
    PQCACHE_ASSIGN_OR_RETURN(kv_heads, ReadInt(config, "num_key_value_heads", 1, kMaxHeads));
  }
  if (heads % kv_heads != 0) {
    return Status::InvalidArgument("\"num_key_value_heads\" is " + std::to_string(kv_heads) +
                                   ", expected a divisor of \"num_attention_heads\", " +
                                   std::to_string(heads));
  }
  spec->heads = static_cast<int>(heads);
  spec->kv_heads = static_cast<int>(kv_heads);
  return Status::Ok();
}

Status ReadHeadDim(const Json& config, ModelSpec* spec) {
  int64_t head_dim = spec->hidden / spec->heads;
  std::string name = "\"head_dim\"";
  if (!Absent(config, "head_dim")) {
    PQCACHE_ASSIGN_OR_RETURN(head_dim, config.GetInt("head_dim"));
  } else if (spec->hidden % spec->heads != 0) {
    return Status::InvalidArgument("\"hidden_size\" is " + std::to_string(spec->hidden) +
                                   ", expected a multiple of the " + std::to_string(spec->heads) +
                                   " heads, or \"head_dim\"");
  } else {
    name = "\"hidden_size\" / \"num_attention_heads\"";
  }
  if (head_dim < kMinHeadDim || head_dim > kMaxHeadDim || head_dim % 2 != 0) {
    return Status::InvalidArgument(name + " is " + std::to_string(head_dim) +
                                   ", expected an even number in " + std::to_string(kMinHeadDim) +
                                   " to " + std::to_string(kMaxHeadDim));
  }
  spec->head_dim = static_cast<int>(head_dim);
  return Status::Ok();
}

Result<int64_t> TokenId(const Json& value, std::string_view key, const ModelSpec& spec) {
  if (!value.is_int()) {
    return Status::InvalidArgument(Quoted(key) + " is " + std::string(value.KindName()) +
                                   ", expected a token id");
  }
  if (value.AsInt() < 0 || value.AsInt() >= spec.vocab) {
    return OutOfRange(key, value.AsInt(), 0, spec.vocab - 1);
  }
  return value.AsInt();
}

}  // namespace

Result<int64_t> ReadInt(const Json& config, std::string_view key, int64_t min, int64_t max) {
  PQCACHE_ASSIGN_OR_RETURN(const int64_t value, config.GetInt(key));
  if (value < min || value > max) return OutOfRange(key, value, min, max);
  return value;
}

Status ReadDimensions(const Json& config, ModelSpec* spec) {
  PQCACHE_ASSIGN_OR_RETURN(spec->hidden, ReadInt(config, "hidden_size", 1, kMaxWidth));
  PQCACHE_ASSIGN_OR_RETURN(spec->intermediate, ReadInt(config, "intermediate_size", 1, kMaxWidth));
  PQCACHE_ASSIGN_OR_RETURN(spec->layers, ReadInt(config, "num_hidden_layers", 1, kMaxLayers));
  PQCACHE_ASSIGN_OR_RETURN(spec->vocab, ReadInt(config, "vocab_size", 1, kMaxVocab));
  PQCACHE_ASSIGN_OR_RETURN(spec->max_positions,
                           ReadInt(config, "max_position_embeddings", 1, kMaxPositions));
  PQCACHE_RETURN_IF_ERROR(ReadHeads(config, spec));
  return ReadHeadDim(config, spec);
}

Status ReadNormEps(const Json& config, std::string_view key, ModelSpec* spec) {
  PQCACHE_ASSIGN_OR_RETURN(spec->norm_eps, config.GetDouble(key));
  if (spec->norm_eps <= 0 || spec->norm_eps >= 1) {
    return Status::InvalidArgument(Quoted(key) + " is " + std::to_string(spec->norm_eps) +
                                   ", expected a number above 0 and below 1");
  }
  return Status::Ok();
}

Status ReadActivation(const Json& config, ModelSpec* spec) {
  struct Name {
    std::string_view name;
    Activation activation;
  };
  // The three names of the tanh form differ only in how transformers evaluates it.
  static constexpr Name kNames[] = {
      {"silu", Activation::kSilu},         {"gelu", Activation::kGelu},
      {"gelu_new", Activation::kGeluTanh}, {"gelu_fast", Activation::kGeluTanh},
      {"relu", Activation::kRelu},         {"gelu_pytorch_tanh", Activation::kGeluTanh},
  };
  PQCACHE_ASSIGN_OR_RETURN(const std::string found, config.GetString("hidden_act"));
  std::string known;
  for (const Name& entry : kNames) {
    if (entry.name == found) {
      spec->activation = entry.activation;
      return Status::Ok();
    }
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  return Status::Unsupported("\"hidden_act\" is " + Quoted(found) + ", expected one of " + known);
}

Status ReadBosToken(const Json& config, ModelSpec* spec) {
  if (Absent(config, "bos_token_id")) return Status::Ok();
  PQCACHE_ASSIGN_OR_RETURN(spec->bos_token,
                           TokenId(*config.Find("bos_token_id"), "bos_token_id", *spec));
  return Status::Ok();
}

Status ReadEosTokens(const Json& config, ModelSpec* spec) {
  if (Absent(config, "eos_token_id")) return Status::Ok();
  const Json& found = *config.Find("eos_token_id");
  std::vector<int64_t> ids;
  for (const Json& value : found.is_array() ? found.AsArray() : Json::Array{found}) {
    PQCACHE_ASSIGN_OR_RETURN(const int64_t id, TokenId(value, "eos_token_id", *spec));
    ids.push_back(id);
  }
  spec->eos_tokens = std::move(ids);
  return Status::Ok();
}

Status ReadCheckpointDtype(const Json& config, ModelSpec* spec) {
  const std::string_view key = Absent(config, "dtype") ? "torch_dtype" : "dtype";
  PQCACHE_ASSIGN_OR_RETURN(const std::string dtype, config.StringOr(key, ""));
  if (dtype != "" && dtype != "float32" && dtype != "bfloat16" && dtype != "float16") {
    return Status::Unsupported(Quoted(key) + " is " + Quoted(dtype) +
                               ", expected float32, bfloat16 or float16");
  }
  spec->checkpoint_dtype = dtype;
  return Status::Ok();
}

Status CheckLayerTypes(const Json& config, const ModelSpec& spec) {
  if (Absent(config, "layer_types")) return Status::Ok();
  const Json& types = *config.Find("layer_types");
  if (!types.is_array() || static_cast<int64_t>(types.AsArray().size()) != spec.layers) {
    return Status::InvalidArgument("\"layer_types\" is " +
                                   (types.is_array()
                                        ? "an array of " + std::to_string(types.AsArray().size())
                                        : std::string(types.KindName())) +
                                   ", expected an array of " + std::to_string(spec.layers));
  }
  const std::string_view expected =
      spec.sliding_window > 0 ? "sliding_attention" : "full_attention";
  for (size_t layer = 0; layer < types.AsArray().size(); ++layer) {
    const Json& type = types.AsArray()[layer];
    if (type.is_string() && type.AsString() == expected) continue;
    return Status::Unsupported(
        "\"layer_types\" has " +
        (type.is_string() ? Quoted(type.AsString()) : std::string(type.KindName())) +
        " for layer " + std::to_string(layer) + ", expected " + Quoted(expected) +
        " for every layer");
  }
  return Status::Ok();
}

}  // namespace pqcache::attention
