#pragma once

// The scan behind PqIndex::Score: sums of table entries over blocks of codes. This is the
// readable form and the oracle of faster ones.

#include <cstdint>

namespace pqcache {

struct AdcScanParams {
  const uint8_t* codes = nullptr;  // blocks as in pq_index.h
  const float* table = nullptr;    // [M, K] of one query
  int subspaces = 0;               // M
  int bits = 0;                    // 4 or 8; K = 2^bits
  int64_t begin = 0, end = 0;      // rows
};

// scores [end - begin].
void AdcScanScalar(const AdcScanParams& params, float* scores);

}  // namespace pqcache
