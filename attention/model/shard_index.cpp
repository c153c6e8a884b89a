#include "attention/model/shard_index.h"

#include <algorithm>

#include "pqcache/base/json.h"

namespace pqcache::attention {
namespace {

bool IsPlainShardName(std::string_view name) {
  static constexpr std::string_view kSuffix = ".safetensors";
  return name.size() > kSuffix.size() && name.ends_with(kSuffix) &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

}  // namespace

Result<std::map<std::string, std::string>> ParseShardIndex(std::string_view json) {
  PQCACHE_ASSIGN_OR_RETURN(const Json index, Json::Parse(json));
  const Json* map = index.Find("weight_map");
  if (map == nullptr || !map->is_object()) {
    return Status::Corruption("\"weight_map\" is " +
                              (map == nullptr ? "absent" : std::string(map->KindName())) +
                              ", expected an object");
  }
  if (map->AsObject().empty()) {
    return Status::Corruption("\"weight_map\" is empty, expected the names of tensors");
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : map->AsObject()) {
    if (!shard.is_string() || !IsPlainShardName(shard.AsString())) {
      return Status::Corruption("\"weight_map\" has " + shard.Dump() + " for tensor \"" + tensor +
                                "\", expected a plain name that ends in .safetensors");
    }
    shards.emplace(tensor, shard.AsString());
  }
  return shards;
}

}  // namespace pqcache::attention
