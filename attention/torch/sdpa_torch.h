#pragma once

// Exact attention by ATen: the second opinion beside sdpa_reference.h, and the first baseline.

#include <vector>

#include "attention/sdpa_reference.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

// Same arguments and meaning as SdpaReference, in float32. Returns out [N, Hq, D].
Result<std::vector<float>> SdpaTorch(const SdpaShape& shape, const float* queries,
                                     const float* keys, const float* values);

// One decode step of one KV head by two matrix products: out [G, D] of queries [G, D] over keys and
// values [T, D], nothing masked: no head is repeated for its group, no number copied.
Status MatmulAttentionTorch(int g, int64_t t, int dim, const float* queries, const float* keys,
                            const float* values, float* out);

}  // namespace pqcache::attention
