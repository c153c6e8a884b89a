#pragma once

#include <cmath>
#include <vector>

namespace pqcache::tools {

// Of the rotary embedding of Llama 3 for heads of this size: what position means of random
// codebooks turn by. Radians per position, [D/2].
inline std::vector<float> LlamaFrequencies(int dim) {
  std::vector<float> frequencies;
  for (int i = 0; i < dim / 2; ++i) {
    frequencies.push_back(static_cast<float>(std::pow(500000.0, -2.0 * i / dim)));
  }
  return frequencies;
}

}  // namespace pqcache::tools
