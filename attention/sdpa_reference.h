#pragma once

// Scaled dot-product attention in double precision, written for truth and not for speed: the
// judge of every other attention here. Pure functions, thread-safe.

#include <cstdint>
#include <vector>

namespace pqcache::attention {

struct SdpaShape {
  int64_t n = 0;                         // query rows; row i is token t - n + i
  int64_t t = 0;                         // keys
  int heads = 0, kv_heads = 0, dim = 0;  // Hq, Hkv, D
  int64_t sliding_window = 0;            // 0: none
  double scale = 0;                      // 0: 1 / sqrt(D)
};

struct SdpaResult {
  std::vector<double> out;  // [N, Hq, D]
  std::vector<double> lse;  // [N, Hq] log-sum-exp of the scaled scores
};

// Causal attention of queries [N, Hq, D] over keys and values [T, Hkv, D]. Query head h uses KV
// head h / (Hq / Hkv). With `keep` non-empty ([T]), only tokens with keep[t] are attended.
SdpaResult SdpaReference(const SdpaShape& shape, const float* queries, const float* keys,
                         const float* values, const std::vector<bool>& keep = {});

}  // namespace pqcache::attention
