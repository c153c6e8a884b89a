#include "attention/model/llama_like.h"

namespace pqcache::attention {

Status ParseQwen3(const Json& config, ModelSpec* spec) {
  // Required here: without it transformers takes 128 and not the hidden size over the heads.
  PQCACHE_RETURN_IF_ERROR(config.GetInt("head_dim").status());
  PQCACHE_RETURN_IF_ERROR(ParseLlamaLike(config, spec));
  PQCACHE_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", false));
  spec->output_bias = spec->qkv_bias;
  spec->names.query_norm = "model.layers.{}.self_attn.q_norm";
  spec->names.key_norm = "model.layers.{}.self_attn.k_norm";
  return ReadSwitchedWindow(config, spec);
}

}  // namespace pqcache::attention
