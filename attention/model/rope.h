#pragma once

// Rotary position embedding (Su et al., 2021) with the frequency scalings of RopeSpec.
// Pairs are the two halves of the rotary part: (x[i], x[i + rotary_dim / 2]).

#include <cstdint>
#include <vector>

#include "attention/model/model_spec.h"

namespace pqcache::attention {

class Rope {
 public:
  explicit Rope(const RopeSpec& spec);

  // Angular step per position of every pair, [rotary_dim / 2], after scaling.
  const std::vector<double>& frequencies() const { return frequencies_; }

  // Rotates x [N, heads, D] in place; row n is at positions[n]. Angles are computed in double.
  // Channels from rotary_dim on are left alone.
  void Apply(int64_t n, const int64_t* positions, int heads, int dim, float* x) const;

 private:
  int rotary_dim_;
  std::vector<double> frequencies_;
};

}  // namespace pqcache::attention
