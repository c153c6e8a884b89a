#pragma once

// Private to attention/model: the rotation settings of a Hugging Face config.json.

#include <string_view>

#include "attention/model/model_spec.h"

namespace pqcache::attention {

// Top-level keys of a family for what rope_parameters may say as well.
struct RopeKeys {
  std::string_view theta = "rope_theta";
  std::string_view partial = "partial_rotary_factor";
  double default_partial = 1.0;
};

// Fills spec->rope from rope_parameters (transformers 5), or from rope_scaling and the keys above
// (transformers 4). Needs spec->head_dim. Kinds other than those of RopeSpec, and settings per
// layer type, are kUnsupported.
Status ReadRope(const Json& config, const RopeKeys& keys, ModelSpec* spec);

}  // namespace pqcache::attention
