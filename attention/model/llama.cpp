#include "attention/model/llama_like.h"

namespace pqcache::attention {

Status ParseLlama(const Json& config, ModelSpec* spec) {
  PQCACHE_RETURN_IF_ERROR(ParseLlamaLike(config, spec));
  PQCACHE_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  PQCACHE_ASSIGN_OR_RETURN(spec->mlp_bias, config.BoolOr("mlp_bias", false));
  return Status::Ok();
}

}  // namespace pqcache::attention
