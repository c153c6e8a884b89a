#include "pqcache/base/top_k.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "pqcache/base/vector_clones.h"

namespace pqcache {
namespace {

inline float Rank(float score) {
  return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
}

// Whole numbers in the order of the ranks; both zeros are one.
inline int32_t Order(float score) {
  const auto bits = std::bit_cast<int32_t>(Rank(score) + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

PQCACHE_VECTOR_CLONES int64_t CountAtLeast(const int32_t* x, int64_t n, int32_t least) {
  constexpr int64_t kPart = int64_t{1} << 20;  // counts of 32 bits are faster
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kPart) {
    const int64_t end = std::min(n, begin + kPart);
    int32_t part = 0;
    for (int64_t i = begin; i < end; ++i) part += x[i] >= least ? 1 : 0;
    count += part;
  }
  return count;
}

PQCACHE_VECTOR_CLONES void FindRange(const int32_t* x, int64_t n, int32_t* low, int32_t* high) {
  int32_t least = x[0], most = x[0];
  for (int64_t i = 0; i < n; ++i) least = x[i] < least ? x[i] : least;
  for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  *low = least;
  *high = most;
}

// The k-th largest, by halving the range that it is in: some thirty passes that compare whole
// registers take less time than one that branches on scores, which cannot be predicted.
int32_t KthLargestOrder(const std::vector<int32_t>& order, int64_t k) {
  const auto n = static_cast<int64_t>(order.size());
  int32_t least, most;
  FindRange(order.data(), n, &least, &most);
  int64_t low = least, high = most;  // low is reached by k numbers, high + 1 by fewer
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (CountAtLeast(order.data(), n, static_cast<int32_t>(middle)) >= k) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return static_cast<int32_t>(low);
}

PQCACHE_VECTOR_CLONES void TakeOrder(const float* scores, int64_t n, int32_t* order) {
  for (int64_t i = 0; i < n; ++i) order[i] = Order(scores[i]);
}

}  // namespace

float KthLargest(const float* scores, int64_t n, int64_t k, std::vector<int32_t>* scratch) {
  scratch->resize(static_cast<size_t>(n));
  TakeOrder(scores, n, scratch->data());
  const int32_t order = KthLargestOrder(*scratch, k);
  return std::bit_cast<float>(order ^ ((order >> 31) & 0x7fffffff));
}

void SelectTopK(const float* scores, int64_t n, int64_t k, std::vector<int32_t>* scratch,
                std::vector<int64_t>* positions) {
  positions->clear();
  if (k <= 0) return;
  if (k >= n) {
    for (int64_t i = 0; i < n; ++i) positions->push_back(i);
    return;
  }
  scratch->resize(static_cast<size_t>(n));
  TakeOrder(scores, n, scratch->data());
  const int32_t* order = scratch->data();
  const int32_t kth = KthLargestOrder(*scratch, k);
  int64_t ties = k - CountAtLeast(order, n, kth + 1);
  positions->resize(static_cast<size_t>(k) + 1);  // one more, for what is not selected in the end
  int64_t* out = positions->data();
  for (int64_t i = 0; i < n; ++i) {
    const bool tie = order[i] == kth && ties > 0;
    ties -= tie ? 1 : 0;
    *out = i;
    out += (order[i] > kth || tie) ? 1 : 0;
  }
  positions->resize(static_cast<size_t>(k));
}

}  // namespace pqcache
