#pragma once

// Look-up tables of up to four queries in whole numbers, so that their sums are exact and the same
// on every instruction set. See quantised_scan.h for what reads them.

#include <cstdint>
#include <span>

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/index/codebook.h"

namespace pqcache {

inline constexpr int kScanQueries = 4;

// What a scan reads beside the entries.
enum class TableForm { kEntries, kPairs, kLanes };

enum class TableSteps {
  kEach,  // every query its own, as fine as its scores allow
  kOne,   // one for all, so that sums of different queries compare
};

// Those of queries that are not there are zeros.
struct QuantisedTables {
  int queries = 0;                 // that are there
  int subspaces = 0;               // M
  int bits = 0;                    // 4 or 8; K = 2^bits
  AlignedBuffer<uint8_t> entries;  // [kScanQueries, M, K], each 0 to 127, fewer for M > 258
  AlignedBuffer<uint16_t> pairs;   // [kScanQueries / 2, M, K], two queries' entries, or empty
  AlignedBuffer<uint64_t> lanes;   // [M, K], all queries' entries in 16 bits each, or empty
  float base[kScanQueries] = {};   // the score of a sum is base + step * sum
  float step[kScanQueries] = {};
  float bound[kScanQueries] = {};  // as given to Set

  // tables: [G, M, K] of finite numbers, G <= kScanQueries. A step is the widest range that a
  // sub-space's entries have over the largest entry. Sums stay below 2^15, also when what is added
  // to a query's scores, between -bound and bound, joins them as StepsOf says. bounds: [G], or
  // empty if nothing is.
  void Set(const PqShape& shape, int g, const float* tables, TableSteps steps,
           std::span<const float> bounds = {});
  // What a score that is added is in whole steps.
  uint16_t StepsOf(int query, float score) const;
  void Fill(TableForm form);
};

}  // namespace pqcache
