#pragma once

// Names a model for everything that depends on its keys and values: codebooks, pages, contexts.

#include "attention/model/checkpoint.h"
#include "attention/model/model_spec.h"

namespace pqcache::attention {

// Of the checkpoint's weights (Checkpoint::ComputeFingerprint) and of every field of the spec that
// changes keys or values: the same weights with another rotary embedding are another model.
Result<Fingerprint> ModelFingerprint(const ModelSpec& spec, const Checkpoint& checkpoint);

}  // namespace pqcache::attention
