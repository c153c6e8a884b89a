#pragma once

// Sums and the like over the lanes of a warp and the threads of a block. All of them call.

namespace pqcache::attention {

template <typename T, typename Join>
__device__ inline T JoinWarp(T x, const Join& join) {
  for (int distance = 16; distance > 0; distance /= 2) {
    x = join(x, __shfl_xor_sync(~0u, x, distance));
  }
  return x;
}

// The sum over the threads before this one; *total over all. `shared` holds a number for each warp
// and may be used again after the call.
__device__ inline int SumBefore(int x, int* shared, int* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = x;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(~0u, sum, distance);
    if (lane >= distance) sum += before;
  }
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  const int of_warp = lane < int(blockDim.x) / 32 ? shared[lane] : 0;
  int warps = of_warp;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(~0u, warps, distance);
    if (lane >= distance) warps += before;
  }
  *total = __shfl_sync(~0u, warps, 31);
  const int before = __shfl_sync(~0u, warps - of_warp, warp);
  __syncthreads();
  return before + sum - x;
}

}  // namespace pqcache::attention
