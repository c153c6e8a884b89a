#pragma once

// Lists of positions, as policies choose them.

#include <cstdint>
#include <numeric>
#include <vector>

namespace pqcache::testing {

// begin, begin + 1, ..., end - 1.
inline std::vector<int64_t> Range(int64_t begin, int64_t end) {
  std::vector<int64_t> range(static_cast<size_t>(end - begin));
  std::iota(range.begin(), range.end(), begin);
  return range;
}

// a, then b.
inline std::vector<int64_t> Joined(std::vector<int64_t> a, const std::vector<int64_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace pqcache::testing
