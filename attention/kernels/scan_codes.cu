// Blocks of a list share its candidates: a warp takes consecutive ones, a lane a token, and writes
// down those whose worth reaches the threshold, in order of position. The last block to finish
// ranks what all of them found.
// Reads every code once and a page table entry for every 32 tokens; writes 16 bytes for each
// candidate that is found (32 with more than four queries).

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
__global__ void __launch_bounds__(kThreads, 2)
    ScanCodesKernel(SelectTokensParams p, SearchArrays arrays, bool retry) {
  // The table [M * K, words], later what ranking needs.
  extern __shared__ __align__(kTableAlignment) uint32_t table[];
  __shared__ RankShared rank;
  __shared__ bool last;
  const int list = blockIdx.y;
  const int lists_of_head = p.per_head ? p.group : 1;
  const int head = list / lists_of_head % p.layer.kv_heads;
  const int sequence = list / lists_of_head / p.layer.kv_heads;
  const int lane = threadIdx.x % 32;

  // What earlier kernels of the step do not write is read before they end.
  const int tokens = p.layer.tokens[sequence];
  const int end = max(0, tokens - p.window.local_window);
  const int begin = min(p.window.n_sink, end);
  const int runs_begin = begin / 32, runs = (end + 31) / 32 - runs_begin;
  const int warps = gridDim.x * kWarps, warp = blockIdx.x * kWarps + threadIdx.x / 32;
  const int runs_of_warp = (runs + warps - 1) / warps;
  const int first = runs_begin + warp * runs_of_warp;
  const int last_run = min(first + runs_of_warp, runs_begin + runs);
  uint8_t* const* pages = p.layer.code_pages + size_t(sequence) * p.layer.max_pages;
  const size_t in_page = (size_t(head) * kGpuPageTokens + lane) * kBytes;
  KeyCodes<kBytes> codes[kRunsAhead];
  const auto load = [&](int run, KeyCodes<kBytes>* to) {
    if (run < last_run) {
      *to = LoadCodes<kBytes>(pages[run / 2] + in_page + run % 2 * 32 * kBytes);
    }
  };
  if (!retry) {
#pragma unroll
    for (int i = 0; i < kRunsAhead; ++i) load(first + i, &codes[i]);
  }
  WaitForPrevious();
  AllowNext();
  Search& search = arrays.searches[list];
  if (retry) {
    if (search.retry == 0) return;
#pragma unroll
    for (int i = 0; i < kRunsAhead; ++i) load(first + i, &codes[i]);
  }

  const int entries = p.codebooks.subspaces << kBits;
  const uint32_t* kept = arrays.tables + size_t(list) * entries * kWords;
  for (int i = threadIdx.x; i < entries * kWords / 4; i += kThreads) {
    reinterpret_cast<uint4*>(table)[i] = reinterpret_cast<const uint4*>(kept)[i];
  }
  const int least = search.least;
  uint32_t offsets_02[kWords], offsets_13[kWords];
  for (int j = 0; j < kWords; ++j) {
    offsets_02[j] = search.offsets_02[j];
    offsets_13[j] = search.offsets_13[j];
  }
  Exponentials<kWords> exponentials(search.step, search.largest_sum, p.per_head ? 1 : p.group);
  const auto table_address = uint32_t(__cvta_generic_to_shared(table));
  auto* found = reinterpret_cast<Found<kWords>*>(arrays.found) + size_t(list) * arrays.capacity +
                size_t(warp) * runs_of_warp * 32;
  int count = 0;
  __syncthreads();
  for (int ahead = first; ahead < last_run; ahead += kRunsAhead) {
#pragma unroll
    for (int i = 0; i < kRunsAhead; ++i) {
      const int run = ahead + i;
      if (run >= last_run) break;
      uint32_t sums_02[kWords], sums_13[kWords];
      SumEntries<kBits, kBytes, kWords>(table_address, codes[i], sums_02, sums_13);
      load(run + kRunsAhead, &codes[i]);
      const int position = run * 32 + lane;
      const bool there = position >= begin && position < end;
      if (!retry && there) exponentials.Add(sums_02, sums_13);
      const bool take = there && WorthOf<kWords>(sums_02, sums_13, offsets_02, offsets_13) >= least;
      const unsigned takers = __ballot_sync(~0u, take);
      if (take) {
        Found<kWords> one;
        one.position = position;
        for (int j = 0; j < kWords; ++j) {
          one.sums_02[j] = sums_02[j];
          one.sums_13[j] = sums_13[j];
        }
        found[count + __popc(takers & ((1u << lane) - 1))] = one;
      }
      count += __popc(takers);
    }
  }
  const size_t segment = size_t(list) * kMaxSegments + warp;
  if (lane == 0) arrays.segment_counts[segment] = count;
  if (!retry) {
#pragma unroll
    for (int q = 0; q < kWordQueries * kWords; ++q) {
      const float sum = JoinWarp(exponentials.sums[q], [](float a, float b) { return a + b; });
      if (lane == 0) arrays.exponentials[segment * kWordQueries * kWords + q] = sum;
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
  return LaunchOverlapping("scan codes", kernel,
                           {dim3(arrays.blocks, arrays.lists), kThreads, bytes}, stream, p, arrays,
                           retry);
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
