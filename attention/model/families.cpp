#include <string>

#include "attention/model/config_reader.h"

namespace pqcache::attention {

// Each in the file of its name.
Status ParseGptNeox(const Json& config, ModelSpec* spec);
Status ParseLlama(const Json& config, ModelSpec* spec);
Status ParseMistral(const Json& config, ModelSpec* spec);
Status ParseQwen2(const Json& config, ModelSpec* spec);
Status ParseQwen3(const Json& config, ModelSpec* spec);

namespace {

constexpr ModelFamily kFamilies[] = {
    {"llama", "LlamaForCausalLM", ParseLlama},
    {"mistral", "MistralForCausalLM", ParseMistral},
    {"qwen2", "Qwen2ForCausalLM", ParseQwen2},
    {"qwen3", "Qwen3ForCausalLM", ParseQwen3},
    {"gpt_neox", "GPTNeoXForCausalLM", ParseGptNeox},
};

Result<const ModelFamily*> FindFamily(const Json& config) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string type, config.GetString("model_type"));
  std::string known;
  for (const ModelFamily& family : kFamilies) {
    if (family.model_type == type) return &family;
    known += (known.empty() ? "" : ", ") + std::string(family.model_type);
  }
  return Status::Unsupported("\"model_type\" is \"" + type + "\", expected one of " + known);
}

// The same type also names models with another head, or without one.
Status CheckArchitecture(const Json& config, const ModelFamily& family) {
  const Json* found = config.Find("architectures");
  if (found == nullptr || found->is_null()) return Status::Ok();
  if (found->is_array() && found->AsArray().size() == 1 && found->AsArray()[0].is_string() &&
      found->AsArray()[0].AsString() == family.architecture) {
    return Status::Ok();
  }
  return Status::Unsupported("\"architectures\" is " + found->Dump() + ", expected [\"" +
                             std::string(family.architecture) + "\"]");
}

Status CheckUnquantized(const Json& config) {
  const Json* found = config.Find("quantization_config");
  if (found == nullptr || found->is_null()) return Status::Ok();
  const Json* method = found->Find("quant_method");
  return Status::Unsupported("\"quantization_config\" is present (quant_method " +
                             (method == nullptr ? "absent" : method->Dump()) +
                             "), expected weights that are not quantized");
}

}  // namespace

Result<ModelSpec> ParseModelConfig(const Json& config) {
  if (!config.is_object()) {
    return Status::InvalidArgument("the model's configuration is " +
                                   std::string(config.KindName()) + ", expected an object");
  }
  PQCACHE_ASSIGN_OR_RETURN(const ModelFamily* family, FindFamily(config));
  PQCACHE_RETURN_IF_ERROR(CheckArchitecture(config, *family));
  PQCACHE_RETURN_IF_ERROR(CheckUnquantized(config));

  ModelSpec spec;
  spec.family = family->model_type;
  PQCACHE_RETURN_IF_ERROR(family->parse(config, &spec));
  PQCACHE_RETURN_IF_ERROR(CheckLayerTypes(config, spec));
  PQCACHE_ASSIGN_OR_RETURN(spec.tied_head, config.BoolOr("tie_word_embeddings", false));
  PQCACHE_RETURN_IF_ERROR(ReadBosToken(config, &spec));
  PQCACHE_RETURN_IF_ERROR(ReadEosTokens(config, &spec));
  PQCACHE_RETURN_IF_ERROR(ReadCheckpointDtype(config, &spec));
  return spec;
}

}  // namespace pqcache::attention
