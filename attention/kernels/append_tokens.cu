// One new token of each sequence: a block for each (KV head, sequence), see append_block.cuh.
//
// Many tokens: a block for each (tile of 32 tokens, KV head, sequence). Keys are rounded and
// written, a thread turns one dimension of half of the tile's keys, then lanes are tokens and a
// warp goes through the centroids of a sub-space, which lie in shared memory. Reads transform and
// centroids once a tile; writes a row and its codes for each token.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "attention/kernels/append_block.cuh"
#include "attention/kernels/append_tokens.h"
#include "attention/kernels/dispatch.cuh"
#include "attention/kernels/launch.cuh"

namespace pqcache::attention {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTileTokens = 32;
constexpr int kPad = 4;  // floats behind a row in shared memory, against bank conflicts

__global__ void __launch_bounds__(kThreads)
    AppendOneKernel(AppendTokensParams p, GpuCodebooks codebooks) {
  extern __shared__ float shared[];
  AppendBlock(p, codebooks, blockIdx.y, blockIdx.x, 0, 1, shared);
}

// What a block of AppendManyKernel works on.
struct Tile {
  int sequence, head, first, count;  // its new tokens [first, first + count)
};

__device__ Tile TileOf(const AppendTokensParams& p) {
  Tile tile{int(blockIdx.z), int(blockIdx.y), int(blockIdx.x) * kTileTokens, 0};
  tile.count = min(kTileTokens, p.n - tile.first);
  return tile;
}

// Rounds and writes rows; keys [32, kDim + kPad] are what is to be coded, those of tokens that are
// not there are zeros.
template <int kDim>
__device__ void StoreRows(const AppendTokensParams& p, const GpuCodebooks& c, const Tile& tile,
                          float* keys) {
  const int position = p.layer.tokens[tile.sequence] - p.n + tile.first;
  void* const* pages = p.layer.row_pages + size_t(tile.sequence) * p.layer.max_pages;
  for (int i = threadIdx.x; i < kTileTokens * kDim; i += kThreads) {
    const int token = i / kDim, d = i % kDim, at = position + token;
    float rounded = 0;
    if (token < tile.count) {
      const size_t new_token = size_t(tile.sequence) * p.n + tile.first + token;
      const size_t from = (new_token * p.layer.kv_heads + tile.head) * kDim + d;
      auto* page = static_cast<__nv_bfloat16*>(pages[at / kGpuPageTokens]);
      auto* row = page + (size_t(tile.head) * kGpuPageTokens + at % kGpuPageTokens) * 2 * kDim;
      const __nv_bfloat16 key = __float2bfloat16_rn(p.keys[from]);
      row[d] = key;
      row[kDim + d] = __float2bfloat16_rn(p.values[from]);
      rounded = __bfloat162float(key);
      if (c.position_means != nullptr) {
        const float mean = MeanChannel(c, tile.head, kDim, at / kGpuPageTokens, d);
        rounded = __fsub_rn(rounded, mean);
      }
    }
    keys[token * (kDim + kPad) + d] = rounded;
  }
}

// <a, b> with the sums of DotByHalfWarp, by one thread.
template <int kDim>
__device__ float DotByThread(const float* a, const float* b) {
  float sums[16] = {};
#pragma unroll
  for (int i = 0; i < kDim; i += 16) {
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
      const float4 x = *reinterpret_cast<const float4*>(a + i + j);
      const float4 y = *reinterpret_cast<const float4*>(b + i + j);
      sums[j] = __fadd_rn(sums[j], __fmul_rn(x.x, y.x));
      sums[j + 1] = __fadd_rn(sums[j + 1], __fmul_rn(x.y, y.y));
      sums[j + 2] = __fadd_rn(sums[j + 2], __fmul_rn(x.z, y.z));
      sums[j + 3] = __fadd_rn(sums[j + 3], __fmul_rn(x.w, y.w));
    }
  }
#pragma unroll
  for (int half = 8; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) sums[i] = __fadd_rn(sums[i], sums[i + half]);
  }
  return sums[0];
}

template <int kDim>
__device__ void TurnKeys(const float* transform, float* matrix, const float* keys, float* turned) {
  constexpr int kStride = kDim + kPad;
  for (int i = threadIdx.x; i < kDim * kDim; i += kThreads) {
    matrix[i / kDim * kStride + i % kDim] = transform[i];
  }
  __syncthreads();
  const int d = threadIdx.x % kDim;
  for (int token = threadIdx.x / kDim; token < kTileTokens; token += kThreads / kDim) {
    turned[token * kStride + d] = DotByThread<kDim>(keys + token * kStride, matrix + d * kStride);
  }
}

// The nearest of `centroids` [K, kSub] in shared memory to a point; scores are those of
// FindNearestCentroid.
template <int kSub>
__device__ int NearestInShared(const float* centroids, const float* half_norms, int k,
                               const float* point) {
  float x[kSub];
#pragma unroll
  for (int d = 0; d < kSub; ++d) x[d] = point[d];
  float best = -INFINITY;
  int nearest = 0;
#pragma unroll 4
  for (int j = 0; j < k; ++j) {
    float score = -half_norms[j];
#pragma unroll
    for (int d = 0; d < kSub; ++d) score = __fmaf_rn(centroids[j * kSub + d], x[d], score);
    if (score > best) best = score, nearest = j;
  }
  return nearest;
}

template <int kDim, int kBits, int kBytes>
__global__ void __launch_bounds__(kThreads) AppendManyKernel(AppendTokensParams p, GpuCodebooks c) {
  constexpr int kStride = kDim + kPad, kOfByte = 8 / kBits, kK = 1 << kBits;
  constexpr int kSubspaces = kBytes * kOfByte, kSub = kDim / kSubspaces;
  extern __shared__ __align__(16) float shared[];
  __shared__ uint8_t codes[kTileTokens * kBytes];
  float* keys = shared;                          // [32, kStride]
  float* turned = keys + kTileTokens * kStride;  // [32, kStride]
  float* work = turned + kTileTokens * kStride;  // the transform, then centroids
  const Tile tile = TileOf(p);
  StoreRows<kDim>(p, c, tile, keys);
  __syncthreads();
  const float* points = keys;
  if (c.key_transform != nullptr) {
    TurnKeys<kDim>(c.key_transform + size_t(tile.head) * kDim * kDim, work, keys, turned);
    points = turned;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* centroids = work + warp * kK * (kSub + 1);  // of this warp's sub-space
  float* half_norms = centroids + kK * kSub;
  __syncthreads();
  for (int byte = warp; byte < kBytes; byte += kWarps) {
    unsigned code = 0;
    for (int i = 0; i < kOfByte; ++i) {
      const int m = byte * kOfByte + i;
      const size_t of_head = (size_t(tile.head) * kSubspaces + m) * kK;
      __syncwarp();
      for (int j = lane; j < kK * kSub; j += 32) centroids[j] = c.centroids[of_head * kSub + j];
      for (int j = lane; j < kK; j += 32) half_norms[j] = c.half_norms[of_head + j];
      __syncwarp();
      code |= unsigned(NearestInShared<kSub>(centroids, half_norms, kK,
                                             points + lane * kStride + m * kSub))
              << (i * kBits);
    }
    codes[lane * kBytes + byte] = uint8_t(code);
  }
  __syncthreads();
  const int position = p.layer.tokens[tile.sequence] - p.n + tile.first;
  uint8_t* const* pages = p.layer.code_pages + size_t(tile.sequence) * p.layer.max_pages;
  for (int i = threadIdx.x; i < tile.count * kBytes; i += kThreads) {
    const int at = position + i / kBytes;
    const size_t row = size_t(tile.head) * kGpuPageTokens + at % kGpuPageTokens;
    pages[at / kGpuPageTokens][row * kBytes + i % kBytes] = codes[i];
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) StoreRowsKernel(AppendTokensParams p) {
  extern __shared__ __align__(16) float shared[];
  StoreRows<kDim>(p, GpuCodebooks{}, TileOf(p), shared);
}

template <int kDim, int kBits, int kBytes>
Status LaunchMany(const AppendTokensParams& p, dim3 grid, GpuStream stream) {
  constexpr int kK = 1 << kBits, kSub = kDim * kBits / (8 * kBytes);
  constexpr int kTransform = kDim * (kDim + kPad), kCentroids = kWarps * kK * (kSub + 1);
  constexpr size_t kShared =
      (2 * kTileTokens * (kDim + kPad) + (kTransform > kCentroids ? kTransform : kCentroids)) *
      sizeof(float);
  auto* kernel = AppendManyKernel<kDim, kBits, kBytes>;
  PQCACHE_RETURN_IF_ERROR(AllowSharedMemory(kernel, kShared));
  kernel<<<grid, kThreads, kShared, stream>>>(p, *p.codebooks);
  return LaunchStatus("append tokens");
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
  return DispatchDim(p.layer.dim, [&](auto dim) -> Status {
    if (p.n == 1) {
      const GpuCodebooks codebooks = p.codebooks == nullptr ? GpuCodebooks{} : *p.codebooks;
      const dim3 grid(p.layer.kv_heads, p.layer.batch);
      AppendOneKernel<<<grid, kThreads, 2 * dim() * sizeof(float), stream>>>(p, codebooks);
      return LaunchStatus("append a token");
    }
    const dim3 grid((p.n + kTileTokens - 1) / kTileTokens, p.layer.kv_heads, p.layer.batch);
    if (p.codebooks == nullptr) {
      constexpr size_t kShared = kTileTokens * (dim() + kPad) * sizeof(float);
      StoreRowsKernel<dim()><<<grid, kThreads, kShared, stream>>>(p);
      return LaunchStatus("append rows");
    }
    return DispatchCodes(p.codebooks->bits, p.layer.bytes_per_key, 1,
                         [&](auto bits, auto bytes, auto) {
                           return LaunchMany<dim(), bits(), bytes()>(p, grid, stream);
                         });
  });
}

}  // namespace pqcache::attention
