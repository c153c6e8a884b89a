#pragma once

// Which shapes there are kernels for.

#include "pqcache/base/status.h"

namespace pqcache::attention {

// InvalidArgument, naming what there is, for another head size D, other bytes of a key's codes (0:
// none) or another number of query heads G that share a KV head.
Status CheckGpuShapes(int dim, int bytes_per_key, int group);

}  // namespace pqcache::attention
