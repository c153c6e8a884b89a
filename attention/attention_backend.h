#pragma once

// What a decoder asks of attention: everything between the rotated projections and the output
// projection. Behind it: exact prefill, decode under a policy, batched sampling, recording.

#include <cstdint>

#include "pqcache/base/status.h"

namespace pqcache::attention {

// Rows of one layer; read during the call only. All float32, dense.
struct AttentionInput {
  int layer = 0;
  int64_t n = 0;                       // N rows
  const int64_t* positions = nullptr;  // [N]
  const float* queries = nullptr;      // [N, Hq, D] after RoPE
  const float* keys = nullptr;         // [N, Hkv, D] after RoPE
  const float* values = nullptr;       // [N, Hkv, D]
};

class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;
  // Stores keys and values where it keeps them and writes out [N, Hq, D]. Called for every layer
  // in order, from one thread.
  virtual Status Attend(const AttentionInput& input, float* out) = 0;
  // True: no two tokens that attend to one another are far apart, wherever they stand in the text,
  // so that positions beyond the model's range are none of its concern.
  virtual bool bounds_distances() const { return false; }
};

}  // namespace pqcache::attention
