#pragma once

// Sums of products in the order in which the CPU takes them (base/vector_math.h), so that codes and
// tables have the same bits on both.

#include <cuda_runtime.h>

namespace pqcache::attention {

// Sum over a half warp's lanes, in each of them, by halves.
__device__ inline float SumOfHalfWarp(float sum) {
  for (int distance = 8; distance > 0; distance /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, distance));
  }
  return sum;
}

// <a, b> of length n, a multiple of 16, by a half warp; both halves of a warp take part.
__device__ inline float DotByHalfWarp(const float* a, const float* b, int n) {
  float sum = 0;
#pragma unroll 8
  for (int i = threadIdx.x % 16; i < n; i += 16) sum = __fadd_rn(sum, __fmul_rn(a[i], b[i]));
  return SumOfHalfWarp(sum);
}

}  // namespace pqcache::attention
