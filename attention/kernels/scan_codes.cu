// Blocks of a list share its candidates: a warp takes consecutive ones, a lane a token, and writes
// down those whose worth reaches the threshold, in order of position. The last block to finish
// ranks what all of them found.
// Reads every code once and its page table entry once for 64 tokens; writes 12 bytes for each
// candidate that is found (20 with more than four queries).

#include <cuda_runtime.h>

#include "attention/kernels/block_reduce.cuh"
#include "attention/kernels/code_sums.cuh"
#include "attention/kernels/dispatch.cuh"
#include "attention/kernels/launch.cuh"
#include "attention/kernels/rank_found.cuh"
#include "attention/kernels/search_state.cuh"
#include "attention/kernels/select_internal.h"

namespace pqcache::attention {
namespace {

constexpr int kThreads = kRankThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kRunsAhead = 4;  // of 32 tokens, whose codes are on their way

template <int kWords>
__device__ int WorthOf(const uint32_t (&sums_02)[kWords], const uint32_t (&sums_13)[kWords],
                       const uint32_t (&offsets_02)[kWords], const uint32_t (&offsets_13)[kWords]) {
  uint32_t best = 0;
#pragma unroll
  for (int j = 0; j < kWords; ++j) {
    best = __vmaxu2(best, __vadd2(sums_02[j], offsets_02[j]));
    best = __vmaxu2(best, __vadd2(sums_13[j], offsets_13[j]));
  }
  return max(LowHalf(best), HighHalf(best));
}

template <int kBits, int kBytes, int kWords>
__global__ void __launch_bounds__(kThreads)
    ScanCodesKernel(SelectTokensParams p, SearchArrays arrays, bool retry) {
  extern __shared__ uint32_t table[];  // [M * K, words], later what ranking needs
  __shared__ RankShared rank;
  __shared__ bool last;
  const int list = blockIdx.y;
  Search& search = arrays.searches[list];
  if (retry && search.retry == 0) return;
  const int lists_of_head = p.per_head ? p.group : 1;
  const int head = list / lists_of_head % p.layer.kv_heads;
  const int sequence = list / lists_of_head / p.layer.kv_heads;
  const int lane = threadIdx.x % 32;

  const int entries = p.codebooks.subspaces << kBits;
  const uint32_t* kept = arrays.tables + size_t(list) * entries * kWords;
  for (int i = threadIdx.x; i < entries * kWords / 4; i += kThreads) {
    reinterpret_cast<uint4*>(table)[i] = reinterpret_cast<const uint4*>(kept)[i];
  }
  const int begin = search.begin, end = search.end, least = search.least;
  uint32_t offsets_02[kWords], offsets_13[kWords];
  for (int j = 0; j < kWords; ++j) {
    offsets_02[j] = search.offsets_02[j];
    offsets_13[j] = search.offsets_13[j];
  }
  Exponentials<kWords> exponentials(search.step, search.largest_sum,
                                    p.per_head ? 1 : p.group);
  __syncthreads();

  const int runs_begin = begin / 32, runs = (end + 31) / 32 - runs_begin;
  const int warps = gridDim.x * kWarps, warp = blockIdx.x * kWarps + threadIdx.x / 32;
  const int runs_of_warp = (runs + warps - 1) / warps;
  const int first = runs_begin + warp * runs_of_warp;
  const int last_run = min(first + runs_of_warp, runs_begin + runs);
  const size_t segment = size_t(list) * arrays.capacity + size_t(warp) * runs_of_warp * 32;
  uint8_t* const* pages = p.layer.code_pages + size_t(sequence) * p.layer.max_pages;
  const size_t head_offset = size_t(head) * kGpuPageTokens * kBytes;
  int found = 0;
  for (int batch = first; batch < last_run; batch += 32) {
    // A lane for each run's page.
    const int of_lane = min(batch + lane, last_run - 1);
    const auto address = reinterpret_cast<unsigned long long>(
        pages[of_lane / 2] + head_offset + of_lane % 2 * 32 * kBytes);
    for (int ahead = 0; ahead < 32 && batch + ahead < last_run; ahead += kRunsAhead) {
      KeyCodes<kBytes> codes[kRunsAhead];
#pragma unroll
      for (int i = 0; i < kRunsAhead; ++i) {
        codes[i] = LoadCodes<kBytes>(reinterpret_cast<const uint8_t*>(
                                         __shfl_sync(~0u, address, ahead + i)) +
                                     lane * kBytes);
      }
#pragma unroll
      for (int i = 0; i < kRunsAhead; ++i) {
        const int position = (batch + ahead + i) * 32 + lane;
        const bool there =
            position >= begin && position < end && batch + ahead + i < last_run;
        uint32_t sums_02[kWords], sums_13[kWords];
        SumEntries<kBits, kBytes, kWords>(reinterpret_cast<const char*>(table), codes[i], sums_02,
                                          sums_13);
        if (!retry && there) exponentials.Add(sums_02, sums_13);
        const bool take =
            there && WorthOf<kWords>(sums_02, sums_13, offsets_02, offsets_13) >= least;
        const unsigned takers = __ballot_sync(~0u, take);
        if (take) {
          const size_t at = segment + found + __popc(takers & ((1u << lane) - 1));
          arrays.found_positions[at] = position;
          for (int j = 0; j < kWords; ++j) {
            reinterpret_cast<uint2*>(arrays.found_sums)[at * kWords + j] =
                make_uint2(sums_02[j], sums_13[j]);
          }
        }
        found += __popc(takers);
      }
    }
  }
  if (lane == 0) arrays.segment_counts[size_t(list) * kMaxSegments + warp] = found;
  if (!retry) {
    float* sums = arrays.exponentials + (size_t(list) * gridDim.x + blockIdx.x) * kMaxQueries;
#pragma unroll
    for (int q = 0; q < kWordQueries * kWords; ++q) {
      const float sum = JoinBlock(exponentials.sums[q], rank.floats, 0.0f,
                                  [](float a, float b) { return a + b; });
      if (threadIdx.x == 0) sums[q] = sum;
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&search.blocks_done, 1u) == gridDim.x - 1;
    if (last) search.blocks_done = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  RankFound<kWords>(p, arrays, list, runs_of_warp * 32, retry, table, &rank);
}

template <int kBits, int kBytes, int kWords>
Status Launch(const SelectTokensParams& p, const SearchArrays& arrays, bool retry,
              GpuStream stream) {
  const size_t table = (size_t{4} * kWords * p.codebooks.subspaces) << kBits;
  const size_t bytes = table > kRankSharedBytes ? table : kRankSharedBytes;
  auto* kernel = ScanCodesKernel<kBits, kBytes, kWords>;
  PQCACHE_RETURN_IF_ERROR(AllowSharedMemory(kernel, bytes));
  kernel<<<dim3(arrays.blocks, arrays.lists), kThreads, bytes, stream>>>(p, arrays, retry);
  return LaunchStatus("scan codes");
}

}  // namespace

Status LaunchScanCodes(const SelectTokensParams& p, const SearchArrays& arrays, bool retry,
                       GpuStream stream) {
  return DispatchCodes(p.codebooks.bits, p.layer.bytes_per_key, arrays.words,
                       [&](auto bits, auto bytes, auto words) {
                         return Launch<bits(), bytes(), words()>(p, arrays, retry, stream);
                       });
}

}  // namespace pqcache::attention
