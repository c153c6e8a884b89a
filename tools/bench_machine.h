#pragma once

// What a machine can do at most: the ceilings that benchmarks are held against.

#include <cstdint>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/thread_pool.h"

namespace pqcache::tools {

struct MachineCeilings {
  double copy_gb_per_second = 0;      // memcpy of 64 MiB, one thread: bytes copied, 10^9 a second
  double checksum_gb_per_second = 0;  // XXH3 of pages in the cache, one thread
};
// The best of several, in well under a second.
MachineCeilings MeasureCeilings();

// Reading memory that no cache holds, with all threads of the pool.
struct ReadCeilings {
  double sequential_gb_per_second = 0;
  double random_gb_per_second = 0;  // rows of `row_bytes` at random places, in rising order
};
ReadCeilings MeasureReadCeilings(ThreadPool* pool, int64_t row_bytes);

// Reads so much else that what was read before is in no cache any more.
class CacheFlush {
 public:
  explicit CacheFlush(int threads);
  void Run(ThreadPool* pool);

 private:
  std::vector<std::vector<uint64_t>> memory_;  // of each thread
};

// Processor, cores and ceilings as JSON.
Json DescribeMachine(const MachineCeilings& ceilings);

}  // namespace pqcache::tools
