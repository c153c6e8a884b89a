#pragma once

// Seeded numbers with the properties that break things: spikes, ties, exact arithmetic.

#include <cstdint>
#include <vector>

#include "pqcache/base/random.h"

namespace pqcache::testing {

// Sizes around the widths of vector registers, blocks and pages, and a prime.
inline constexpr int64_t kAwkwardSizes[] = {0, 1, 2, 15, 16, 17, 31, 32, 33, 257, 4097};

// n standard normal numbers times `scale`.
inline std::vector<float> RandomNormals(int64_t n, uint64_t seed, float scale = 1) {
  Random random(MixSeed(seed, 0));
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = scale * random.Normal();
  return values;
}

// n whole numbers in [low, high]: sums and products of a few are exact in float32, and ties abound.
inline std::vector<float> RandomIntegers(int64_t n, int low, int high, uint64_t seed) {
  Random random(MixSeed(seed, 1));
  std::vector<float> values(static_cast<size_t>(n));
  const auto count = static_cast<uint64_t>(high - low + 1);
  for (float& v : values) v = static_cast<float>(low + static_cast<int>(random.Below(count)));
  return values;
}

// Copies the value at a random position over `copies` other random positions.
inline void PlantTies(int64_t copies, uint64_t seed, std::vector<float>* values) {
  Random random(MixSeed(seed, 2));
  const uint64_t n = values->size();
  const float value = (*values)[random.Below(n)];
  for (int64_t i = 0; i < copies; ++i) (*values)[random.Below(n)] = value;
}

// Multiplies `count` random values by `factor`.
inline void PlantSpikes(int64_t count, float factor, uint64_t seed, std::vector<float>* values) {
  Random random(MixSeed(seed, 3));
  for (int64_t i = 0; i < count; ++i) (*values)[random.Below(values->size())] *= factor;
}

}  // namespace pqcache::testing
