#pragma once

// What decode steps of one layer and KV head leave to the next ones, beside what the cache holds.

#include <cstdint>
#include <vector>

#include "attention/mass_correction.h"
#include "pqcache/index/residual_norms.h"

namespace pqcache::attention {

struct HeadMemory {
  explicit HeadMemory(int group) : correction(group) {}

  uint64_t bytes() const {
    uint64_t bytes = norms.bytes();
    for (const auto& list : selected) bytes += list.size() * sizeof(int64_t);
    return bytes;
  }

  MassCorrection correction;  // under a budget of mass
  ResidualNorms norms;        // of all paged tokens, under a policy that certifies
  // Positions that the last step selected, each list ascending, under a policy that is sticky.
  std::vector<std::vector<int64_t>> selected;
};

}  // namespace pqcache::attention
