#include "attention/model/llama_like.h"

namespace pqcache::attention {

Status ParseQwen2(const Json& config, ModelSpec* spec) {
  PQCACHE_RETURN_IF_ERROR(ParseLlamaLike(config, spec));
  spec->qkv_bias = true;
  return ReadSwitchedWindow(config, spec);
}

}  // namespace pqcache::attention
