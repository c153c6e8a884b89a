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

constexpr int kMaxPairs = 64;

// Products of a mean key with one query, by what the place of a page makes of them: its cosine of
// pair i times x of turned[i], its sine times y, and what no place turns.
struct MeanProducts {
  float2 turned[kMaxPairs];  // zeros behind the last pair
  float rest;
};

// Of queries [heads * group, D] with the means of heads from `head` on, by a block, whose threads
// meet afterwards. Queries lie `stride` floats apart.
__device__ inline void SetMeanProducts(const GpuCodebooks& c, int head, int heads, int group,
                                       int dim, const float* queries, int stride,
                                       MeanProducts* products) {
  for (int at = threadIdx.x; at < heads * group * kMaxPairs; at += blockDim.x) {
    const int q = at / kMaxPairs, i = at % kMaxPairs;
    const float* mean = c.position_means + size_t(head + q / group) * dim;
    const float* query = queries + q * stride;
    float2 turned = {};
    if (i < c.pairs) {
      const float a = mean[i], b = mean[i + c.pairs];
      const float first = query[i], second = query[i + c.pairs];
      turned = {a * first + b * second, a * second - b * first};
    }
    products[q].turned[i] = turned;
    if (i > 0) continue;
    float rest = 0;
    for (int d = 2 * c.pairs; d < dim; ++d) rest += mean[d] * query[d];
    products[q].rest = rest;
  }
}

// Eight lanes of a warp share a page, each has every eighth pair.
constexpr int kPageLanes = 8;
template <int kDim>
struct PagePhases {
  static constexpr int kOfLane = kDim / 2 / kPageLanes;
  static_assert(kDim / 2 <= kMaxPairs, "a product for every pair");
  float2 x[kOfLane];  // cosine, sine

  __device__ PagePhases(const GpuCodebooks& c, int page) {
    const auto* phases = reinterpret_cast<const double2*>(c.phases) + size_t(page) * c.pairs;
#pragma unroll
    for (int j = 0; j < kOfLane; ++j) {
      const int i = j * kPageLanes + threadIdx.x % kPageLanes;
      const double2 phase = i < c.pairs ? __ldg(phases + i) : double2{};
      x[j] = {float(phase.x), float(phase.y)};
    }
  }
  // What the page adds to the score of a query, before it is scaled; all eight have it.
  __device__ float Score(const MeanProducts& products) const {
    float score = 0;
#pragma unroll
    for (int j = 0; j < kOfLane; ++j) {
      const float2 turned = products.turned[j * kPageLanes + threadIdx.x % kPageLanes];
      score += turned.x * x[j].x + turned.y * x[j].y;
    }
    for (int distance = kPageLanes / 2; distance > 0; distance /= 2) {
      score += __shfl_xor_sync(~0u, score, distance);
    }
    return score + products.rest;
  }
};

// Of a list's queries, packed like sums.
template <int kWords>
struct PageSteps {
  uint32_t of_02[kWords], of_13[kWords];
};

// Such scores in steps: QuantisedTables::StepsOf, but for rounding. Bounds and step are those of
// the tables.
template <int kWords>
__device__ void StepsOfPage(const float* scores, const float* bounds, int queries, float step,
                            PageSteps<kWords>* to) {
  const float inverse_step = 1.0f / step;
  uint32_t steps[4 * kWords] = {};
#pragma unroll
  for (int q = 0; q < 4 * kWords; ++q) {
    if (q >= queries) break;
    const float most = 2 * bounds[q] * inverse_step + 0.5f;
    const float of_score = (scores[q] + bounds[q]) * inverse_step + 0.5f;
    steps[q] = uint32_t(fminf(fmaxf(of_score, 0.0f), most));
  }
#pragma unroll
  for (int j = 0; j < kWords; ++j) {
    to->of_02[j] = steps[4 * j] | steps[4 * j + 2] << 16;
    to->of_13[j] = steps[4 * j + 1] | steps[4 * j + 3] << 16;
  }
}

}  // namespace pqcache::attention
