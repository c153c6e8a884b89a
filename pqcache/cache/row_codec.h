#pragma once

// One row of floats to and from the dtype of a page (f32 or bf16).

#include <cstdint>
#include <cstring>

#include "pqcache/base/dtype.h"
#include "pqcache/base/half.h"
#include "pqcache/base/vector_math.h"

namespace pqcache {

inline void StoreRow(const float* x, int64_t n, DType dtype, uint8_t* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  auto* half = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < n; ++i) half[i] = FloatToBFloat16(x[i]);
}

inline void LoadRow(const uint8_t* row, int64_t n, DType dtype, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, row, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  BFloat16ToFloats(reinterpret_cast<const uint16_t*>(row), n, out);
}

// False if an element is NaN or infinite, or became so when it was stored.
inline bool RowIsFinite(const uint8_t* row, int64_t n, DType dtype) {
  if (dtype == DType::kF32) return AllFinite(reinterpret_cast<const float*>(row), n);
  const auto* half = reinterpret_cast<const uint16_t*>(row);
  for (int64_t i = 0; i < n; ++i) {
    if ((half[i] & 0x7f80) == 0x7f80) return false;
  }
  return true;
}

}  // namespace pqcache
