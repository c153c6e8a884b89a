#pragma once

// Exact partial selection with a stated rule for ties: of equal scores the lower position wins.
// NaN ranks like minus infinity. Thread-safe; `scratch` is the caller's, so nothing is allocated
// once it has grown.

#include <cstdint>
#include <vector>

namespace pqcache {

// The k-th largest of scores [N], k in [1, N].
float KthLargest(const float* scores, int64_t n, int64_t k, std::vector<int32_t>* scratch);

// The k best of scores [N], as positions in ascending order; all of them when k >= n.
void SelectTopK(const float* scores, int64_t n, int64_t k, std::vector<int32_t>* scratch,
                std::vector<int64_t>* positions);

}  // namespace pqcache
