#pragma once

// Exact attention by ATen: the second opinion beside sdpa_reference.h, and the first baseline.

#include <vector>

#include "attention/sdpa_reference.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

// Same arguments and meaning as SdpaReference, in float32. Returns out [N, Hq, D].
Result<std::vector<float>> SdpaTorch(const SdpaShape& shape, const float* queries,
                                     const float* keys, const float* values);

}  // namespace pqcache::attention
