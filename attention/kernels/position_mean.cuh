#pragma once

// Mean keys of pages, and what they add to scores: PositionMean (pqcache/index/position_mean.h) on
// the device. A page is one of its blocks.

#include <cstdint>

#include "attention/kernels/block_reduce.cuh"
#include "attention/kernels/gpu_types.h"

namespace pqcache::attention {

// Channel d of the mean key of a page, as PositionMean::OfBlock gives it to the bit.
__device__ inline float MeanChannel(const GpuCodebooks& c, int head, int dim, int page, int d) {
  const float* mean = c.position_means + size_t(head) * dim;
  if (d >= 2 * c.pairs) return mean[d];
  const bool second = d >= c.pairs;
  const int i = second ? d - c.pairs : d;
  const double2 phase =
      __ldg(reinterpret_cast<const double2*>(c.phases) + size_t(page) * c.pairs + i);
  const double a = mean[i], b = mean[i + c.pairs];
  return second ? float(__dadd_rn(__dmul_rn(b, phase.x), __dmul_rn(a, phase.y)))
                : float(__dsub_rn(__dmul_rn(a, phase.x), __dmul_rn(b, phase.y)));
}

// No score of a query [D] with a mean key is larger, by a warp; all lanes have it.
__device__ inline float BoundOfMeans(const GpuCodebooks& c, int head, int dim, const float* query) {
  const float* mean = c.position_means + size_t(head) * dim;
  float bound = 0;
  for (int i = threadIdx.x % 32; i < dim - c.pairs; i += 32) {
    if (i < c.pairs) {
      bound += hypotf(mean[i], mean[i + c.pairs]) * hypotf(query[i], query[i + c.pairs]);
    } else {
      bound += fabsf(mean[i + c.pairs] * query[i + c.pairs]);
    }
  }
  return JoinWarp(bound, [](float a, float b) { return a + b; });
}

// What the mean key of a page adds to the sums of a list's queries, in steps, packed like sums. By
// a warp; all lanes have it. QuantisedTables::StepsOf, but for the rounding of the products.
// Queries lie `stride` floats apart; scale, bounds and step are those of the tables.
template <int kWords>
__device__ void StepsOfPage(const GpuCodebooks& c, int head, int dim, int page, const float* given,
                            int stride, int queries, float scale, const float* bounds, float step,
                            uint32_t (&steps_02)[kWords], uint32_t (&steps_13)[kWords]) {
  float scores[4 * kWords] = {};
  for (int d = threadIdx.x % 32; d < dim; d += 32) {
    const float mean = MeanChannel(c, head, dim, page, d);
#pragma unroll
    for (int q = 0; q < 4 * kWords; ++q) {
      if (q < queries) scores[q] += mean * given[q * stride + d];
    }
  }
  uint32_t steps[4 * kWords];
#pragma unroll
  for (int q = 0; q < 4 * kWords; ++q) {
    const float score = scale * JoinWarp(scores[q], [](float a, float b) { return a + b; });
    const float bound = q < queries ? bounds[q] : 0;
    const float most = 2 * bound / step + 0.5f;
    steps[q] = uint32_t(fminf(fmaxf((score + bound) / step + 0.5f, 0.0f), most));
  }
#pragma unroll
  for (int j = 0; j < kWords; ++j) {
    steps_02[j] = steps[4 * j] | steps[4 * j + 2] << 16;
    steps_13[j] = steps[4 * j + 1] | steps[4 * j + 3] << 16;
  }
}

}  // namespace pqcache::attention
