#pragma once

// Private to attention/model: what Llama and its descendants have in common.

#include "attention/model/model_spec.h"

namespace pqcache::attention {

// Sizes, RMS norms, activation, rotation and module names of a gated decoder with separate
// projections, without biases, attending to all tokens. Families then change their own fields.
Status ParseLlamaLike(const Json& config, ModelSpec* spec);

// use_sliding_window, sliding_window and max_window_layers (Qwen). The window must hold for all
// layers or for none.
Status ReadSwitchedWindow(const Json& config, ModelSpec* spec);

}  // namespace pqcache::attention
