#include "attention/model/model_spec.h"

#include "attention/model/config_reader.h"
#include "pqcache/base/file_io.h"

namespace pqcache::attention {
namespace {

Result<Json> ReadJson(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, JsonLimits().max_bytes));
  Result<Json> json = Json::Parse(text);
  if (!json.ok()) return json.status().Annotate(path);
  return json;
}

}  // namespace

Result<ModelSpec> LoadModelSpec(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  PQCACHE_ASSIGN_OR_RETURN(const Json config, ReadJson(path));
  Result<ModelSpec> spec = ParseModelConfig(config);
  if (!spec.ok()) return spec.status().Annotate(path);

  const std::string generation_path = model_dir + "/generation_config.json";
  const Result<Json> generation = ReadJson(generation_path);
  if (generation.status().code() == StatusCode::kNotFound) return spec;
  PQCACHE_RETURN_IF_ERROR(generation.status());
  PQCACHE_RETURN_IF_ERROR(ReadEosTokens(*generation, &spec.value()).Annotate(generation_path));
  return spec;
}

std::string ModuleFor(const std::string& pattern, int64_t layer) {
  const size_t hole = pattern.find("{}");
  if (hole == std::string::npos) return pattern;
  return pattern.substr(0, hole) + std::to_string(layer) + pattern.substr(hole + 2);
}

}  // namespace pqcache::attention
