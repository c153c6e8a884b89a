#pragma once

// Seeded generator with the same stream on every platform and library (xoshiro256**, seeded by
// splitmix64; Blackman and Vigna, 2018). Not thread-safe: one per task, seeded by MixSeed so that
// results do not depend on the number of threads.

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace pqcache {

// Mixes a stream number into a seed; distinct (seed, stream) pairs give independent generators.
inline uint64_t MixSeed(uint64_t seed, uint64_t stream) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * (stream + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) {
    for (size_t i = 0; i < state_.size(); ++i) state_[i] = MixSeed(seed, i);
  }

  uint64_t Next() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // Uniform in [0, n); n > 0. The bias is below n / 2^64.
  uint64_t Below(uint64_t n) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>((static_cast<Wide>(Next()) * n) >> 64);
  }
  // Uniform in [0, 1).
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  // Standard normal (Box-Muller).
  float Normal() {
    const double u = 1.0 - Uniform();
    const double v = Uniform();
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
  }

 private:
  std::array<uint64_t, 4> state_;
};

}  // namespace pqcache
