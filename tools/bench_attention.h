#pragma once

// One decode step of one layer at growing contexts: exact attention and the approximate ones over
// the same cache, whose keys and values lie in memory, beside libtorch's matrix products over
// float32 copies; the part that the codebooks take (encode + tables); and selection alone, beside
// FAISS (bench_selection.h). Before every step the caches of the CPU are flushed, as a model's
// weights do between two uses of a layer. Every step appends a token and encodes it, also an exact
// one.
//
// Keys, values, queries and codebooks are random: the worst case for reading rows, the best one for
// sampling, and no word about accuracy.

#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/index/codebook.h"
#include "tools/bench_machine.h"

namespace pqcache::tools {

struct AttentionBenchOptions {
  std::vector<int64_t> contexts;  // tokens, ascending
  int heads = 32, kv_heads = 8;   // Hq, Hkv
  PqShape pq;                     // with D
  double ratio = 0.02;            // share of the context that a step selects
  int64_t top_k = 256;            // a fixed number of tokens, the other budget
  int page_tokens = 16;
  bool position_mean = false;  // codebooks as train makes them; no FAISS beside, which knows none
  int rounds = 9;
  uint64_t seed = 0;
  ReadCeilings ceilings;  // with as many threads as the pool has
};

// Checks first that exact attention is what double precision says, and that selecting everything
// gives the same. Adds one object to `rows` and one line to `text` for each measurement: ms is the
// median; of the steps, share_of_byte_limit is the time that reading the bytes alone would take
// (codes in order, rows at random, those of every list) over it.
Status BenchAttention(const AttentionBenchOptions& options, ThreadPool* pool, Json* rows,
                      std::string* text);

}  // namespace pqcache::tools
