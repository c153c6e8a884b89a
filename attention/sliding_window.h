#pragma once

#include <algorithm>
#include <cstdint>

namespace pqcache::attention {

// First token that the token at `position` attends to, under a model's sliding window (0: none):
// itself and the `window` - 1 tokens before it. The references do not use it, so that they judge
// it.
inline int64_t FirstVisible(int64_t position, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
}

}  // namespace pqcache::attention
