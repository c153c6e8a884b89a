// One block for each (tokens of a tile, KV head, sequence).
// Reads the transform and the centroids once a tile; writes a row and its codes for each token.

#include <cuda_runtime.h>

#include "attention/kernels/append_block.cuh"
#include "attention/kernels/append_tokens.h"
#include "attention/kernels/launch.cuh"

namespace pqcache::attention {
namespace {

constexpr int kThreads = 256;
constexpr int kTileTokens = 16;  // of many new tokens; they share what a block reads

__global__ void __launch_bounds__(kThreads)
    AppendKernel(AppendTokensParams p, GpuCodebooks codebooks, int tile) {
  extern __shared__ float shared[];
  const int first = blockIdx.x * tile;
  AppendBlock(p, codebooks, blockIdx.z, blockIdx.y, first, min(tile, p.n - first), shared);
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
  AppendKernel<<<grid, kThreads, bytes, stream>>>(p, codebooks, tile);
  return LaunchStatus("append tokens");
}

}  // namespace pqcache::attention
