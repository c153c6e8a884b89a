#pragma once

// One block writes the rows of a few new tokens of a sequence and KV head into their pages
// and encodes their keys. Keys are rounded, written, freed of the mean key of their page and turned
// by the key transform, half a warp a number; then a warp finds the nearest centroid of a
// sub-space, lanes side by side over centroids.

#include <cuda_bf16.h>

#include "attention/kernels/append_tokens.h"
#include "attention/kernels/position_mean.cuh"
#include "attention/kernels/vector_product.cuh"

namespace pqcache::attention {

struct NearestCentroid {
  float score;
  int number;
};

__device__ inline NearestCentroid Nearer(NearestCentroid a, NearestCentroid b) {
  const bool second = b.score > a.score || (b.score == a.score && b.number < a.number);
  return second ? b : a;
}

// Of one sub-space, by a warp; scores are those of FindNearestCentroid.
__device__ inline int FindNearest(const float* centroids, const float* half_norms, int k, int sub,
                                  const float* point) {
  NearestCentroid best{-INFINITY, k};
#pragma unroll 2
  for (int j = threadIdx.x % 32; j < k; j += 32) {
    float score = -half_norms[j];
#pragma unroll 8
    for (int d = 0; d < sub; ++d) score = __fmaf_rn(centroids[j * sub + d], point[d], score);
    best = Nearer(best, {score, j});
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    best = Nearer(best, {__shfl_xor_sync(~0u, best.score, distance),
                         __shfl_xor_sync(~0u, best.number, distance)});
  }
  return best.number == k ? 0 : best.number;
}

// Tokens [first, first + count) of the new ones. `shared` has room for 2 * count * D floats.
__device__ inline void AppendBlock(const AppendTokensParams& p, const GpuCodebooks& c, int sequence,
                                   int head, int first, int count, float* shared) {
  const int dim = p.layer.dim, threads = blockDim.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int position = p.layer.tokens[sequence] - p.n + first;
  const size_t pages = size_t(sequence) * p.layer.max_pages;
  float* keys = shared;                  // [count, D]
  float* turned = shared + count * dim;  // [count, D]
  for (int i = threadIdx.x; i < count * dim; i += threads) {
    const int token = i / dim, d = i % dim, at = position + token;
    const size_t from =
        ((size_t(sequence) * p.n + first + token) * p.layer.kv_heads + head) * dim + d;
    auto* page = static_cast<__nv_bfloat16*>(p.layer.row_pages[pages + at / kGpuPageTokens]);
    __nv_bfloat16* row = page + (size_t(head) * kGpuPageTokens + at % kGpuPageTokens) * 2 * dim;
    const __nv_bfloat16 key = __float2bfloat16_rn(p.keys[from]);
    row[d] = key;
    row[dim + d] = __float2bfloat16_rn(p.values[from]);
    keys[i] = __bfloat162float(key);
    if (c.position_means != nullptr) {
      keys[i] = __fsub_rn(keys[i], MeanChannel(c, head, dim, at / kGpuPageTokens, d));
    }
  }
  if (c.subspaces == 0) return;
  __syncthreads();

  if (c.key_transform == nullptr) {
    turned = keys;
  } else {
    const float* transform = c.key_transform + size_t(head) * dim * dim;
    for (int d = threadIdx.x / 16; d < dim; d += threads / 16) {
      for (int token = 0; token < count; ++token) {
        const float x = DotByHalfWarp(keys + token * dim, transform + d * dim, dim);
        if (lane % 16 == 0) turned[token * dim + d] = x;
      }
    }
    __syncthreads();
  }

  const int k = 1 << c.bits, sub = dim / c.subspaces;
  const int of_byte = 8 / c.bits;  // sub-spaces that share a byte of codes
  for (int byte = warp; byte < c.subspaces / of_byte; byte += threads / 32) {
    for (int token = 0; token < count; ++token) {
      unsigned codes = 0;
      for (int i = 0; i < of_byte; ++i) {
        const int m = byte * of_byte + i;
        const size_t of_head = (size_t(head) * c.subspaces + m) * k;
        codes |= unsigned(FindNearest(c.centroids + of_head * sub, c.half_norms + of_head, k, sub,
                                      turned + token * dim + m * sub))
                 << (i * c.bits);
      }
      const int at = position + token;
      uint8_t* page = p.layer.code_pages[pages + at / kGpuPageTokens];
      if (lane == 0) {
        page[(size_t(head) * kGpuPageTokens + at % kGpuPageTokens) * p.layer.bytes_per_key + byte] =
            uint8_t(codes);
      }
    }
  }
}

}  // namespace pqcache::attention
