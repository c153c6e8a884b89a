// Adds the values of new candidates to the sums of their head. A block for each KV head and
// sequence; half as many threads as channels take a row. Reads 2 D bytes a token: of one token in a
// step, of the whole prompt in the first call after it.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "attention/kernels/dispatch.cuh"
#include "attention/kernels/launch.cuh"
#include "attention/kernels/value_sums.h"

namespace pqcache::attention {
namespace {

constexpr int kThreads = 1024;

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    UpdateValueSumsKernel(GpuLayer layer, GpuWindow window) {
  constexpr int kRowThreads = kDim / 2, kRows = kThreads / kRowThreads;
  __shared__ double2 sums[kRows][kRowThreads];
  const int head = blockIdx.x, sequence = blockIdx.y;
  const int row = threadIdx.x / kRowThreads, pair = threadIdx.x % kRowThreads;
  const size_t of_head = size_t(sequence) * layer.kv_heads + head;
  WaitForPrevious();
  AllowNext();
  const int end = max(0, layer.tokens[sequence] - window.local_window);
  const int begin = max(layer.summed[of_head], min(window.n_sink, end));
  if (begin >= end) return;
  void* const* pages = layer.row_pages + size_t(sequence) * layer.max_pages;
  double2 sum = {};
#pragma unroll 8
  for (int i = begin + row; i < end; i += kRows) {
    const auto* page = static_cast<const __nv_bfloat162*>(pages[i / kGpuPageTokens]);
    const size_t at = size_t(head) * kGpuPageTokens + i % kGpuPageTokens;
    const float2 value = __bfloat1622float2(page[at * kDim + kDim / 2 + pair]);
    sum.x += value.x;
    sum.y += value.y;
  }
  sums[row][pair] = sum;
  __syncthreads();
  if (threadIdx.x == 0) layer.summed[of_head] = end;
  if (row > 0) return;
  for (int i = 1; i < kRows; ++i) {
    sum.x += sums[i][pair].x;
    sum.y += sums[i][pair].y;
  }
  double2* all = reinterpret_cast<double2*>(layer.value_sums + of_head * kDim) + pair;
  *all = {all->x + sum.x, all->y + sum.y};
}

}  // namespace

Status UpdateValueSums(const GpuLayer& layer, const GpuWindow& window, GpuStream stream) {
  return DispatchDim(layer.dim, [&](auto dim) {
    return LaunchOverlapping("value sums", UpdateValueSumsKernel<dim()>,
                             {dim3(layer.kv_heads, layer.batch), kThreads, 0}, stream, layer,
                             window);
  });
}

}  // namespace pqcache::attention
