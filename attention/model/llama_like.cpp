#include "attention/model/llama_like.h"

#include "attention/model/config_reader.h"
#include "attention/model/rope_config.h"

namespace pqcache::attention {

Status ParseLlamaLike(const Json& config, ModelSpec* spec) {
  PQCACHE_RETURN_IF_ERROR(ReadDimensions(config, spec));
  PQCACHE_RETURN_IF_ERROR(ReadNormEps(config, "rms_norm_eps", spec));
  PQCACHE_RETURN_IF_ERROR(ReadActivation(config, spec));
  PQCACHE_RETURN_IF_ERROR(ReadRope(config, RopeKeys(), spec));
  spec->norm = NormKind::kRms;
  spec->names = {
      .embedding = "model.embed_tokens",
      .final_norm = "model.norm",
      .head = "lm_head",
      .attention_norm = "model.layers.{}.input_layernorm",
      .mlp_norm = "model.layers.{}.post_attention_layernorm",
      .query = "model.layers.{}.self_attn.q_proj",
      .key = "model.layers.{}.self_attn.k_proj",
      .value = "model.layers.{}.self_attn.v_proj",
      .fused_qkv = "",
      .output = "model.layers.{}.self_attn.o_proj",
      .query_norm = "",
      .key_norm = "",
      .gate = "model.layers.{}.mlp.gate_proj",
      .up = "model.layers.{}.mlp.up_proj",
      .down = "model.layers.{}.mlp.down_proj",
  };
  return Status::Ok();
}

Status ReadSwitchedWindow(const Json& config, ModelSpec* spec) {
  PQCACHE_ASSIGN_OR_RETURN(const bool use, config.BoolOr("use_sliding_window", false));
  if (!use) return Status::Ok();
  // Layers from max_window_layers on have the window; 28 is the default in transformers.
  PQCACHE_ASSIGN_OR_RETURN(const int64_t first, config.IntOr("max_window_layers", 28));
  if (first >= spec->layers) return Status::Ok();
  if (first > 0) {
    return Status::Unsupported("\"max_window_layers\" is " + std::to_string(first) + " of " +
                               std::to_string(spec->layers) +
                               " layers, expected a sliding window in all layers or in none");
  }
  PQCACHE_ASSIGN_OR_RETURN(spec->sliding_window,
                           ReadInt(config, "sliding_window", 1, kMaxPositions));
  return Status::Ok();
}

}  // namespace pqcache::attention
