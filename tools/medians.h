#pragma once

// Of measurements: robust against a machine that does something else for a while.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pqcache::tools {

// The value that `share` of the others do not exceed; there must be one.
inline double Percentile(std::vector<double> values, double share) {
  const auto at = static_cast<int64_t>(share * static_cast<double>(values.size() - 1) + 0.5);
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

inline double Median(std::vector<double> values) { return Percentile(std::move(values), 0.5); }

}  // namespace pqcache::tools
