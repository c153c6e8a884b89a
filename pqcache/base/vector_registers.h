#pragma once

// Sixteen numbers as one vector of the compiler: a register of AVX-512, two of AVX2, four of the
// base instruction set. For functions with PQCACHE_VECTOR_CLONES, into which all of this is
// inlined.

#include <cstdint>
#include <cstring>

namespace pqcache {

#define PQCACHE_INLINE inline __attribute__((always_inline))

inline constexpr int kVectorLanes = 16;
using Floats16 __attribute__((vector_size(4 * kVectorLanes))) = float;
using Ints16 __attribute__((vector_size(4 * kVectorLanes))) = int32_t;

PQCACHE_INLINE Floats16 LoadFloats(const float* x) {
  Floats16 v;
  std::memcpy(&v, x, sizeof(v));
  return v;
}

PQCACHE_INLINE void StoreFloats(Floats16 v, float* x) { std::memcpy(x, &v, sizeof(v)); }

// All lanes as one number, by halves, so that few steps wait for each other. join(a, b) takes
// vectors.
template <typename Join>
PQCACHE_INLINE float JoinLanes(Floats16 v, const Join& join) {
  v = join(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = join(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = join(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = join(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return v[0];
}

}  // namespace pqcache
