#pragma once

// What a machine can do at most: the ceilings that benchmarks are held against.

#include "pqcache/base/json.h"

namespace pqcache::tools {

struct MachineCeilings {
  double copy_gb_per_second = 0;      // memcpy of 64 MiB, one thread: bytes copied, 10^9 a second
  double checksum_gb_per_second = 0;  // XXH3 of pages in the cache, one thread
};
// The best of several, in well under a second.
MachineCeilings MeasureCeilings();

// Processor, cores and ceilings as JSON.
Json DescribeMachine(const MachineCeilings& ceilings);

}  // namespace pqcache::tools
