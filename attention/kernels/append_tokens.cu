// One block for each (tokens of a tile, KV head, sequence). Keys of the tile are rounded, written
// and turned by the key transform, half a warp a number; then a warp finds the nearest centroid of
// a sub-space, lanes side by side over centroids.
// Reads the transform and the centroids once a tile; writes a row and its codes for each token.

#include <cuda_bf16.h>

#include "attention/kernels/append_tokens.h"
#include "attention/kernels/launch.cuh"
#include "attention/kernels/vector_product.cuh"

namespace pqcache::attention {
namespace {

constexpr int kThreads = 256;
constexpr int kTileTokens = 16;  // of many new tokens; they share what a block reads

struct Best {
  float score;
  int centroid;
};

__device__ Best Better(Best a, Best b) {
  const bool second = b.score > a.score || (b.score == a.score && b.centroid < a.centroid);
  return second ? b : a;
}

// Keys of the tile [count, D] in `turned`; what lies behind them are D numbers for each warp.
template <int kTile>
__global__ void __launch_bounds__(kThreads)
    AppendKernel(AppendTokensParams p, GpuCodebooks c) {
  extern __shared__ float shared[];
  const int dim = p.layer.dim, head = blockIdx.y, sequence = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int kWarps = kThreads / 32;
  const int first = blockIdx.x * kTile;
  const int count = min(kTile, p.n - first);
  const int position = p.layer.tokens[sequence] - p.n + first;
  float* keys = shared;                   // [kTile, D]
  float* turned = shared + kTile * dim;   // [kTile, D]

  for (int i = threadIdx.x; i < count * dim; i += kThreads) {
    const int token = i / dim, d = i % dim;
    const int at = position + token;
    const size_t from =
        ((size_t(sequence) * p.n + first + token) * p.layer.kv_heads + head) * dim + d;
    auto* page = static_cast<__nv_bfloat16*>(
        p.layer.row_pages[size_t(sequence) * p.layer.max_pages + at / kGpuPageTokens]);
    __nv_bfloat16* row = page + (size_t(head) * kGpuPageTokens + at % kGpuPageTokens) * 2 * dim;
    const __nv_bfloat16 key = __float2bfloat16_rn(p.keys[from]);
    row[d] = key;
    row[dim + d] = __float2bfloat16_rn(p.values[from]);
    keys[i] = __bfloat162float(key);
  }
  if (c.subspaces == 0) return;
  __syncthreads();

  if (c.key_transform == nullptr) {
    turned = keys;
  } else {
    const float* transform = c.key_transform + size_t(head) * dim * dim;
    for (int d = threadIdx.x / 16; d < dim; d += kThreads / 16) {
      for (int token = 0; token < count; ++token) {
        const float x = DotByHalfWarp(keys + token * dim, transform + d * dim, dim);
        if (lane % 16 == 0) turned[token * dim + d] = x;
      }
    }
    __syncthreads();
  }

  const int k = 1 << c.bits, sub = dim / c.subspaces;
  for (int pair = warp; pair < c.subspaces * c.bits / 8; pair += kWarps) {
    const int of_byte = 8 / c.bits;  // sub-spaces that share a byte of codes
    for (int token = 0; token < count; ++token) {
      unsigned byte = 0;
      for (int i = 0; i < of_byte; ++i) {
        const int m = pair * of_byte + i;
        const float* centroids = c.centroids + (size_t(head) * c.subspaces + m) * k * sub;
        const float* half_norms = c.half_norms + (size_t(head) * c.subspaces + m) * k;
        Best best{-INFINITY, k};
        for (int j = lane; j < k; j += 32) {
          float score = -half_norms[j];
          for (int d = 0; d < sub; ++d) {
            score = __fmaf_rn(centroids[j * sub + d], turned[token * dim + m * sub + d], score);
          }
          best = Better(best, {score, j});
        }
        for (int distance = 16; distance > 0; distance /= 2) {
          best = Better(best, {__shfl_xor_sync(~0u, best.score, distance),
                               __shfl_xor_sync(~0u, best.centroid, distance)});
        }
        byte |= unsigned(best.centroid == k ? 0 : best.centroid) << (i * c.bits);
      }
      const int at = position + token;
      uint8_t* page =
          p.layer.code_pages[size_t(sequence) * p.layer.max_pages + at / kGpuPageTokens];
      if (lane == 0) {
        page[(size_t(head) * kGpuPageTokens + at % kGpuPageTokens) * p.layer.bytes_per_key +
             pair] = uint8_t(byte);
      }
    }
  }
}

__global__ void AdvanceKernel(int32_t* tokens, int batch, int n) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < batch) tokens[i] += n;
}

}  // namespace

Status AdvanceTokens(int32_t* tokens, int batch, int n, GpuStream stream) {
  AdvanceKernel<<<(batch + kThreads - 1) / kThreads, kThreads, 0, stream>>>(tokens, batch, n);
  return LaunchStatus("advance tokens");
}

Status AppendTokens(const AppendTokensParams& p, GpuStream stream) {
  if (p.layer.dim % 16 != 0 || p.layer.dim < 16 || p.layer.dim > 256) {
    return Status::InvalidArgument("head size is " + std::to_string(p.layer.dim) +
                                   ", expected a multiple of 16 up to 256 on a GPU");
  }
  const GpuCodebooks codebooks = p.codebooks == nullptr ? GpuCodebooks{} : *p.codebooks;
  const int tile = p.n == 1 ? 1 : kTileTokens;
  const dim3 grid((p.n + tile - 1) / tile, p.layer.kv_heads, p.layer.batch);
  const size_t bytes = size_t{2} * tile * p.layer.dim * sizeof(float);
  if (p.n == 1) {
    AppendKernel<1><<<grid, kThreads, bytes, stream>>>(p, codebooks);
  } else {
    AppendKernel<kTileTokens><<<grid, kThreads, bytes, stream>>>(p, codebooks);
  }
  return LaunchStatus("append tokens");
}

}  // namespace pqcache::attention
