#pragma once

// The one table of accepted errors. A test may ask for less than this, never for more.

#include "pqcache/base/dtype.h"

namespace pqcache::testing {

// Accepted error of a number that was computed in float32 from numbers stored as `t`, relative to
// the sum of the absolute values of its terms. For the 16-bit types the rounding of the stored
// numbers themselves dominates: half a unit in the last of 8 (bf16) or 11 (f16) places.
constexpr double RelativeTolerance(DType t) {
  switch (t) {
    case DType::kF64:
      return 1e-13;
    case DType::kF32:
      return 1e-5;
    case DType::kF16:
      return 0x1p-11;
    case DType::kBF16:
      return 0x1p-8;
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
      return 0;
  }
  return 0;
}

// Accepted |found - expected| of a sum whose terms have absolute values that add up to `magnitude`.
constexpr double Tolerance(DType t, double magnitude) { return RelativeTolerance(t) * magnitude; }

}  // namespace pqcache::testing
