#pragma once

// The two products of attention over rows of keys and values: logits, and the weighted sum of the
// values. Rows may lie anywhere; those that come later in the list are fetched ahead of use. The
// body is chosen once per process (pqcache/base/isa.h). Thread-safe.

#include <cstdint>
#include <span>

#include "pqcache/base/dtype.h"
#include "pqcache/base/isa.h"

namespace pqcache::attention {

// Where K and V lie in a row of bytes, aligned for their dtype.
struct RowFormat {
  DType dtype = DType::kF32;  // kF32 or kBF16
  int dim = 0;                // D
  int64_t value_offset = 0;   // bytes from the row's start to V; K is at its start
};

// Rows that are worked on at a time.
inline constexpr int64_t kRowBlock = 64;

struct RowBlockTask {
  RowFormat format;
  std::span<const uint8_t* const> rows;  // all of the call
  int64_t begin = 0, count = 0;          // rows [begin, begin + count) now; count <= kRowBlock
  int g = 0;                             // G query heads
};

// logits [G, kRowBlock]: scale * <query g, K of row begin + i>; what lies behind `count` is
// overwritten with anything. queries: [G, D]. Sums are taken in float32.
void RowLogits(const RowBlockTask& task, const float* queries, float scale, float* logits);

// out [G, D] += weights [G, kRowBlock] times V of the rows.
void AddWeightedValues(const RowBlockTask& task, const float* weights, float* out);

// The bodies behind them, for tests.
struct RowProducts {
  Isa isa;
  void (*logits)(const RowBlockTask&, const float*, float, float*);
  void (*add_values)(const RowBlockTask&, const float*, float*);
};
std::span<const RowProducts> AllRowProducts();

}  // namespace pqcache::attention
