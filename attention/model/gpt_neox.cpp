#include "attention/model/config_reader.h"
#include "attention/model/rope_config.h"

namespace pqcache::attention {
namespace {

// The fused projection has one key and one value per query head, and heads fill the hidden size.
Status CheckFused(const ModelSpec& spec) {
  if (spec.kv_heads != spec.heads) {
    return Status::Unsupported("\"num_key_value_heads\" is " + std::to_string(spec.kv_heads) +
                               ", expected " + std::to_string(spec.heads) +
                               ", as \"num_attention_heads\"");
  }
  if (int64_t{spec.heads} * spec.head_dim != spec.hidden) {
    return Status::Unsupported("\"head_dim\" is " + std::to_string(spec.head_dim) + " for " +
                               std::to_string(spec.heads) +
                               " heads, expected their product to be " +
                               std::to_string(spec.hidden) + ", as \"hidden_size\"");
  }
  return Status::Ok();
}

ModuleNames Names() {
  return {
      .embedding = "gpt_neox.embed_in",
      .final_norm = "gpt_neox.final_layer_norm",
      .head = "embed_out",
      .attention_norm = "gpt_neox.layers.{}.input_layernorm",
      .mlp_norm = "gpt_neox.layers.{}.post_attention_layernorm",
      .query = "",
      .key = "",
      .value = "",
      .fused_qkv = "gpt_neox.layers.{}.attention.query_key_value",
      .output = "gpt_neox.layers.{}.attention.dense",
      .query_norm = "",
      .key_norm = "",
      .gate = "",
      .up = "gpt_neox.layers.{}.mlp.dense_h_to_4h",
      .down = "gpt_neox.layers.{}.mlp.dense_4h_to_h",
  };
}

}  // namespace

Status ParseGptNeox(const Json& config, ModelSpec* spec) {
  PQCACHE_RETURN_IF_ERROR(ReadDimensions(config, spec));
  PQCACHE_RETURN_IF_ERROR(CheckFused(*spec));
  PQCACHE_RETURN_IF_ERROR(ReadNormEps(config, "layer_norm_eps", spec));
  PQCACHE_RETURN_IF_ERROR(ReadActivation(config, spec));
  PQCACHE_RETURN_IF_ERROR(ReadRope(
      config, {.theta = "rotary_emb_base", .partial = "rotary_pct", .default_partial = 0.25},
      spec));
  PQCACHE_ASSIGN_OR_RETURN(spec->parallel_residual, config.BoolOr("use_parallel_residual", true));
  PQCACHE_ASSIGN_OR_RETURN(spec->qkv_bias, config.BoolOr("attention_bias", true));
  spec->output_bias = spec->qkv_bias;
  spec->mlp_bias = true;
  spec->norm = NormKind::kLayer;
  spec->names = Names();
  return Status::Ok();
}

}  // namespace pqcache::attention
