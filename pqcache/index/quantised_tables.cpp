#include "pqcache/index/quantised_tables.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "pqcache/base/vector_clones.h"

namespace pqcache {
namespace {

constexpr float kSmallestRange = 1e-30f;  // so that its inverse is finite

// Two entries fit into 8 bits, and those of all sub-spaces into 15.
float LargestEntry(int subspaces) { return static_cast<float>(std::min(127, 32767 / subspaces)); }

using Floats __attribute__((vector_size(64))) = float;  // K is a multiple of 16

inline __attribute__((always_inline)) Floats Load(const float* x) {
  Floats v;
  std::memcpy(&v, x, sizeof(v));
  return v;
}

inline __attribute__((always_inline)) float Smallest(Floats v) {
  float least = v[0];
  for (int i = 1; i < 16; ++i) least = v[i] < least ? v[i] : least;
  return least;
}

// lows [M] are the smallest entries of a table [M, K]; gives the widest range of a sub-space.
PQCACHE_VECTOR_CLONES float FindRanges(const float* table, int subspaces, int k, float* lows) {
  float widest = kSmallestRange;
  for (int m = 0; m < subspaces; ++m, table += k) {
    Floats low = Load(table), high = low;
    for (int c = 16; c < k; c += 16) {
      const Floats v = Load(table + c);
      low = v < low ? v : low;
      high = v > high ? v : high;
    }
    lows[m] = Smallest(low);
    widest = std::max(widest, -Smallest(-high) - lows[m]);
  }
  return widest;
}

// entries [M, K] = (table - lows) * scale, rounded.
PQCACHE_VECTOR_CLONES void Quantise(const float* table, int subspaces, int k, const float* lows,
                                    float scale, float largest, uint8_t* entries) {
  for (int m = 0; m < subspaces; ++m, table += k, entries += k) {
    for (int i = 0; i < k; ++i) {
      const float entry = std::min(largest, (table[i] - lows[m]) * scale + 0.5f);
      entries[i] = static_cast<uint8_t>(static_cast<int32_t>(entry));
    }
  }
}

}  // namespace

void QuantisedTables::Set(const PqShape& shape, int g, const float* tables, TableSteps steps) {
  queries = g;
  subspaces = shape.subspaces;
  bits = shape.bits;
  const int k = shape.centroids();
  const size_t table_size = static_cast<size_t>(subspaces) * k;
  if (entries.size() != kScanQueries * table_size || g < kScanQueries) {
    entries.Resize(0);  // what is new is zero
    entries.Resize(kScanQueries * table_size);
  }
  const float largest = LargestEntry(subspaces);
  std::vector<float> lows(static_cast<size_t>(g * subspaces));
  float ranges[kScanQueries];
  for (int q = 0; q < g; ++q) {
    float* of_query = lows.data() + q * subspaces;
    ranges[q] = FindRanges(tables + q * table_size, subspaces, k, of_query);
    base[q] = std::accumulate(of_query, of_query + subspaces, 0.0f);
  }
  if (steps == TableSteps::kOne) std::fill_n(ranges, g, *std::max_element(ranges, ranges + g));
  for (int q = 0; q < g; ++q) {
    step[q] = ranges[q] / largest;
    Quantise(tables + q * table_size, subspaces, k, lows.data() + q * subspaces, 1.0f / step[q],
             largest, entries.data() + q * table_size);
  }
  pairs.Resize(0);
  lanes.Resize(0);
}

void QuantisedTables::Fill(TableForm form) {
  const size_t table_size = entries.size() / kScanQueries;
  const uint8_t* of_query[kScanQueries];
  for (int q = 0; q < kScanQueries; ++q) of_query[q] = entries.data() + q * table_size;
  if (form == TableForm::kPairs) {
    pairs.Resize(kScanQueries / 2 * table_size);
    for (size_t i = 0; i < pairs.size(); ++i) {
      const uint8_t* const* two = of_query + i / table_size * 2;
      const size_t at = i % table_size;
      pairs[i] = static_cast<uint16_t>(two[0][at] | two[1][at] << 8);
    }
  } else if (form == TableForm::kLanes) {
    lanes.Resize(table_size);
    for (size_t i = 0; i < table_size; ++i) {
      for (int q = 0; q < kScanQueries; ++q) lanes[i] |= uint64_t{of_query[q][i]} << (16 * q);
    }
  }
}

}  // namespace pqcache
