#pragma once

// One decode step of one layer on the GPU at growing contexts: exact attention by libtorch's best
// kernels, and the steps of GpuAttention. Every measurement is a recorded graph over several layers
// that are used in turn, as a model does, so that none finds its codes and rows in the L2 cache
// unless all of them fit there; its time is the median over replays, divided by the layers.
//
// Keys, values, queries and codebooks are random: the worst case for reading rows, the best one for
// sampling, and no word about accuracy.

#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/index/codebook.h"

namespace pqcache::tools {

struct GpuAttentionBenchOptions {
  std::vector<int64_t> contexts;  // tokens, ascending
  int batch = 1;                  // sequences of that length
  int heads = 32, kv_heads = 8;   // Hq, Hkv
  PqShape pq;                     // with D
  double ratio = 0.02;            // share of the context that a step selects,
  int64_t most = 4096;            // but no more tokens than these
  int rounds = 30;
  uint64_t seed = 0;
  bool position_mean = false;  // codebooks with position means
};

// Adds one object to `rows` and one line to `text` for each measurement: ms is the median.
Status BenchGpuAttention(const GpuAttentionBenchOptions& options, Json* rows, std::string* text);

}  // namespace pqcache::tools
