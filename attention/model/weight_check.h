#pragma once

// Compares the tensors of a checkpoint with those that a ModelSpec needs.

#include "attention/model/checkpoint.h"
#include "attention/model/model_spec.h"

namespace pqcache::attention {

// kInvalidArgument that lists every tensor which is missing, unknown, of another shape or of a
// dtype that is no floating-point type, one a line. The head may be absent when it is tied.
// Buffers that old checkpoints carry (rotary_emb.inv_freq, attention.bias,
// attention.masked_bias) are ignored. Reads no data.
Status CheckWeights(const ModelSpec& spec, const Checkpoint& checkpoint);

}  // namespace pqcache::attention
