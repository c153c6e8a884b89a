#include "pqcache/index/quantised_tables.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_registers.h"

namespace pqcache {
namespace {

constexpr float kSmallestRange = 1e-30f;  // so that its inverse is finite

constexpr int kMostSum = 32767;

// Two entries fit into 8 bits, and those of all sub-spaces into 15, or 14 if more is added.
float LargestEntry(int subspaces, bool more) {
  return static_cast<float>(std::min(127, kMostSum / (more ? 2 : 1) / subspaces));
}

// lows [M] are the smallest entries of a table [M, K]; gives the widest range of a sub-space.
PQCACHE_VECTOR_CLONES float FindRanges(const float* table, int subspaces, int k, float* lows) {
  float widest = kSmallestRange;
  for (int m = 0; m < subspaces; ++m, table += k) {
    Floats16 low = LoadFloats(table), high = low;
    for (int c = 16; c < k; c += 16) {
      const Floats16 v = LoadFloats(table + c);
      low = v < low ? v : low;
      high = v > high ? v : high;
    }
    lows[m] = JoinLanes(low, [](Floats16 a, Floats16 b) { return a < b ? a : b; });
    const float most = JoinLanes(high, [](Floats16 a, Floats16 b) { return a > b ? a : b; });
    widest = std::max(widest, most - lows[m]);
  }
  return widest;
}

// entries [M, K] = (table - lows) * scale, rounded. The scale makes the largest a whole number but
// for rounding, which half a step more does not turn into the next one.
PQCACHE_VECTOR_CLONES void Quantise(const float* table, int subspaces, int k, const float* lows,
                                    float scale, uint8_t* entries) {
  for (int m = 0; m < subspaces; ++m, table += k, entries += k) {
    for (int i = 0; i < k; ++i) {
      const float entry = (table[i] - lows[m]) * scale + 0.5f;
      entries[i] = static_cast<uint8_t>(static_cast<int32_t>(entry));
    }
  }
}

PQCACHE_VECTOR_CLONES void FillPairs(const uint8_t* first, const uint8_t* second, size_t n,
                                     uint16_t* pairs) {
  for (size_t i = 0; i < n; ++i) pairs[i] = static_cast<uint16_t>(first[i] | second[i] << 8);
}

PQCACHE_VECTOR_CLONES void FillLanes(const uint8_t* entries, int shift, size_t n, uint64_t* lanes) {
  for (size_t i = 0; i < n; ++i) lanes[i] |= uint64_t{entries[i]} << shift;
}

}  // namespace

void QuantisedTables::Set(const PqShape& shape, int g, const float* tables, TableSteps steps,
                          std::span<const float> bounds) {
  queries = g;
  subspaces = shape.subspaces;
  bits = shape.bits;
  const int k = shape.centroids();
  const size_t table_size = static_cast<size_t>(subspaces) * k;
  if (entries.size() != kScanQueries * table_size || g < kScanQueries) {
    entries.Resize(0);  // what is new is zero
    entries.Resize(kScanQueries * table_size);
  }
  const float largest = LargestEntry(subspaces, !bounds.empty());
  // Steps that are left for what is added; rounding takes one.
  const float room = kMostSum - largest * static_cast<float>(subspaces) - 1;
  thread_local std::vector<float> lows;
  lows.resize(static_cast<size_t>(g * subspaces));
  float ranges[kScanQueries];
  for (int q = 0; q < g; ++q) {
    float* of_query = lows.data() + q * subspaces;
    bound[q] = bounds.empty() ? 0 : bounds[static_cast<size_t>(q)];
    ranges[q] = std::max(FindRanges(tables + q * table_size, subspaces, k, of_query),
                         2 * bound[q] / room * largest);
    base[q] = std::accumulate(of_query, of_query + subspaces, 0.0f) - bound[q];
  }
  if (steps == TableSteps::kOne) std::fill_n(ranges, g, *std::max_element(ranges, ranges + g));
  for (int q = 0; q < g; ++q) {
    step[q] = ranges[q] / largest;
    Quantise(tables + q * table_size, subspaces, k, lows.data() + q * subspaces, 1.0f / step[q],
             entries.data() + q * table_size);
  }
  pairs.Resize(0);
  lanes.Resize(0);
}

uint16_t QuantisedTables::StepsOf(int query, float score) const {
  const float steps = (score + bound[query]) / step[query] + 0.5f;
  const float most = 2 * bound[query] / step[query] + 0.5f;
  return static_cast<uint16_t>(std::clamp(steps, 0.0f, most));
}

void QuantisedTables::Fill(TableForm form) {
  const size_t table_size = entries.size() / kScanQueries;
  if (form == TableForm::kPairs) {
    pairs.Resize(kScanQueries / 2 * table_size);
    for (int p = 0; p < (queries + 1) / 2; ++p) {
      const uint8_t* two = entries.data() + 2 * p * table_size;
      FillPairs(two, two + table_size, table_size, pairs.data() + p * table_size);
    }
  } else if (form == TableForm::kLanes) {
    lanes.Resize(table_size);
    for (int q = 0; q < kScanQueries; ++q) {
      FillLanes(entries.data() + q * table_size, 16 * q, table_size, lanes.data());
    }
  }
}

}  // namespace pqcache
