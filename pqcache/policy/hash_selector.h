#pragma once

// Sampling of tokens by locality-sensitive hashing of their keys (SimHash), and the weights that
// make attention over the sample an estimate of attention over all of them.
//
// Source of the method: Chen et al., "MagicPIG: LSH Sampling for Efficient LLM Generation", 2024.

#include <cstdint>
#include <memory>
#include <vector>

#include "pqcache/policy/layer_selector.h"

namespace pqcache {

struct HashSettings {
  int bits = 10;       // K: signs of a hash
  int tables = 150;    // L: hashes of a key
  bool centre = true;  // hashes are of keys less their mean
  uint64_t seed = 0;
};

// Directions [tables * bits, D] that keys and queries are projected on, the same for all heads.
using HashDirections = std::shared_ptr<const std::vector<float>>;
HashDirections MakeHashDirections(const HashSettings& settings, int dim);

// A token is chosen if its hash equals the query's in two tables or more, whatever the budget.
std::unique_ptr<LayerSelector> CreateHashSelector(const HashSettings& settings,
                                                  HashDirections directions,
                                                  const SelectorShape& shape);

}  // namespace pqcache
