#include <algorithm>

#include "pqcache/index/adc_scan.h"
#include "pqcache/index/pq_index.h"

namespace pqcache {
namespace {

constexpr int kBlock = PqIndex::kBlockTokens;

void ScanBlock8(const uint8_t* block, const float* table, int subspaces, float* sums) {
  for (int m = 0; m < subspaces; ++m) {
    const uint8_t* line = block + m * kBlock;
    const float* entries = table + m * 256;
    for (int t = 0; t < kBlock; ++t) sums[t] += entries[line[t]];
  }
}

void ScanBlock4(const uint8_t* block, const float* table, int subspaces, float* sums) {
  for (int m = 0; m < subspaces; m += 2) {
    const uint8_t* line = block + m / 2 * kBlock;
    const float* low = table + m * 16;
    const float* high = low + 16;
    for (int t = 0; t < kBlock; ++t) sums[t] += low[line[t] & 15] + high[line[t] >> 4];
  }
}

}  // namespace

void AdcScanScalar(const AdcScanParams& p, float* scores) {
  const int64_t block_bytes = int64_t{p.bits == 8 ? p.subspaces : p.subspaces / 2} * kBlock;
  for (int64_t row = p.begin; row < p.end;) {
    const int64_t block = row / kBlock;
    const int64_t first = block * kBlock;
    const int64_t stop = std::min(p.end, first + kBlock);
    float sums[kBlock] = {};
    const uint8_t* bytes = p.codes + block * block_bytes;
    if (p.bits == 8) {
      ScanBlock8(bytes, p.table, p.subspaces, sums);
    } else {
      ScanBlock4(bytes, p.table, p.subspaces, sums);
    }
    std::copy(sums + (row - first), sums + (stop - first), scores + (row - p.begin));
    row = stop;
  }
}

}  // namespace pqcache
