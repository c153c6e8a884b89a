#pragma once

// Finding the best tokens of every query head of a layer by their codes: this project beside FAISS
// on the same codes. FAISS also gives scores, in order; this project gives positions alone. Caches
// are flushed before every search.

#include <cstdint>
#include <string>

#include "pqcache/base/json.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/kv_cache.h"
#include "tools/bench_machine.h"

namespace pqcache::tools {

struct SelectionBenchOptions {
  int heads = 0;  // Hq
  int64_t k = 0;  // tokens for each query head
  int rounds = 0;
  uint64_t seed = 0;
};

// Over the codes of layer 0. Checks first that all find nearly the same tokens. Adds one object to
// `rows` and one line to `text` for each program.
Status BenchSelection(const KvCache& cache, const SelectionBenchOptions& options, ThreadPool* pool,
                      Json* rows, std::string* text);

}  // namespace pqcache::tools
