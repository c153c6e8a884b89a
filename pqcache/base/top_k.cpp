#include "pqcache/base/top_k.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace pqcache {
namespace {

float Rank(float score) {
  return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
}

// k in [1, n].
float KthLargest(const float* scores, int64_t n, int64_t k, std::vector<float>* scratch) {
  scratch->resize(static_cast<size_t>(n));
  std::transform(scores, scores + n, scratch->begin(), Rank);
  const auto kth = scratch->begin() + (k - 1);
  std::nth_element(scratch->begin(), kth, scratch->end(), std::greater<float>());
  return *kth;
}

}  // namespace

void SelectTopK(const float* scores, int64_t n, int64_t k, std::vector<float>* scratch,
                std::vector<int64_t>* positions) {
  positions->clear();
  if (k <= 0) return;
  if (k >= n) {
    for (int64_t i = 0; i < n; ++i) positions->push_back(i);
    return;
  }
  const float threshold = KthLargest(scores, n, k, scratch);
  int64_t above = 0;
  for (int64_t i = 0; i < n; ++i) above += Rank(scores[i]) > threshold ? 1 : 0;
  int64_t ties = k - above;
  for (int64_t i = 0; i < n; ++i) {
    const float rank = Rank(scores[i]);
    if (rank > threshold || (rank == threshold && ties-- > 0)) positions->push_back(i);
  }
}

}  // namespace pqcache
