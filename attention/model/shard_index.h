#pragma once

// Private to attention/model: model.safetensors.index.json, which says in which file beside it
// each tensor of a sharded checkpoint is.

#include <map>
#include <string>
#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache::attention {

// Tensor name to file name. kCorruption unless every file name is plain: letters, digits, '.', '_'
// and '-', ending in ".safetensors".
Result<std::map<std::string, std::string>> ParseShardIndex(std::string_view json);

}  // namespace pqcache::attention
