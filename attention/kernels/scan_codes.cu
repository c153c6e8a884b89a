// Blocks of a list share its candidates: a warp takes consecutive ones, a lane a token, and writes
// down those whose worth reaches the threshold, in order of position. Then the blocks exchange what
// they found, rank it (rank_found.cuh) and write the list; or they scan once more, if the threshold
// that came from the sample was too high. They wait for each other, so all of them are launched
// together.
// Reads every code once, a page table entry for every 32 tokens and, with position means, a score
// of every page and query; writes 16 bytes for each candidate that is found (32 with more than four
// queries).

#include <cuda_runtime.h>

#include "attention/kernels/block_reduce.cuh"
#include "attention/kernels/code_sums.cuh"
#include "attention/kernels/dispatch.cuh"
#include "attention/kernels/launch.cuh"
#include "attention/kernels/list_place.cuh"
#include "attention/kernels/position_mean.cuh"
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

// Of a list: from which worth on candidates are collected.
template <int kWords>
struct Collecting {
  int least;
  uint32_t offsets_02[kWords], offsets_13[kWords];

  __device__ explicit Collecting(const Search& search) {
    least = search.least;
    for (int j = 0; j < kWords; ++j) {
      offsets_02[j] = search.offsets_02[j];
      offsets_13[j] = search.offsets_13[j];
    }
  }
  __device__ int OffsetOf(int q) const {
    const uint32_t pair = q % 2 == 0 ? offsets_02[q / 4] : offsets_13[q / 4];
    return q % 4 < 2 ? LowHalf(pair) : HighHalf(pair);
  }
  // The key that a candidate may have that is not collected, and no more.
  __device__ int BestLeftOut(const ListRanks<kWords>& ranks) const {
    int best = -1;
#pragma unroll
    for (int q = 0; q < ranks.kQueries; ++q) {
      const int sum = least - 1 - OffsetOf(q);
      if (q < ranks.queries && sum >= 0) best = max(best, sum + ranks.offsets[q]);
    }
    return best;
  }
  // From now on every candidate with this key; 0: all.
  __device__ void TakeAllFrom(uint32_t key, const ListRanks<kWords>& ranks) {
    least = int(key);
    PackOffsets<kWords>(ranks.offsets, offsets_02, offsets_13);
  }
};

// The runs of 32 tokens that a warp scans.
struct WarpRuns {
  int first, last, of_warp;
};

// Scans them and writes what is worth it behind `found`; gives how many.
template <int kBits, int kBytes, int kWords, typename Load, typename Place>
__device__ int ScanRuns(const WarpRuns& runs, int begin, int end, uint32_t table,
                        const Collecting<kWords>& collecting, const Load& load, const Place& place,
                        KeyCodes<kBytes> (&codes)[kRunsAhead], bool again,
                        Exponentials<kWords>* exponentials, Found<kWords>* found) {
  const int lane = threadIdx.x % 32;
  int count = 0;
  for (int ahead = runs.first; ahead < runs.last; ahead += kRunsAhead) {
#pragma unroll
    for (int i = 0; i < kRunsAhead; ++i) {
      const int run = ahead + i;
      if (run >= runs.last) break;
      uint32_t sums_02[kWords], sums_13[kWords];
      SumEntries<kBits, kBytes, kWords>(table, codes[i], sums_02, sums_13);
      load(run + kRunsAhead, &codes[i]);
      place(run, sums_02, sums_13);
      const int position = run * 32 + lane;
      const bool there = position >= begin && position < end;
      if (!again && there) exponentials->Add(sums_02, sums_13);
      const int worth =
          WorthOf<kWords>(sums_02, sums_13, collecting.offsets_02, collecting.offsets_13);
      const bool take = there && worth >= collecting.least;
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
  return count;
}

template <int kBits, int kBytes, int kWords>
__global__ void __launch_bounds__(kThreads, 2)
    ScanCodesKernel(SelectTokensParams p, SearchArrays arrays) {
  // The table [M * K, words], then keys of ranks.
  extern __shared__ __align__(kTableAlignment) uint32_t table[];
  __shared__ RankShared s;
  __shared__ PageSteps<kWords> placed[kWarps][32];
  const int list = blockIdx.y;
  const auto [head, sequence] = PlaceOfList(list, p.per_head ? p.group : 1, p.layer.kv_heads);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  // What earlier kernels of the step do not write is read before they end.
  const int tokens = p.layer.tokens[sequence];
  const int end = max(0, tokens - p.window.local_window);
  const int begin = min(p.window.n_sink, end);
  const int runs_begin = begin / 32, all_runs = (end + 31) / 32 - runs_begin;
  WarpRuns runs;
  runs.of_warp = (all_runs + int(gridDim.x) * kWarps - 1) / (int(gridDim.x) * kWarps);
  runs.first = runs_begin + (blockIdx.x * kWarps + warp) * runs.of_warp;
  runs.last = min(runs.first + runs.of_warp, runs_begin + all_runs);
  uint8_t* const* pages = p.layer.code_pages + size_t(sequence) * p.layer.max_pages;
  const size_t in_page = (size_t(head) * kGpuPageTokens + lane) * kBytes;
  KeyCodes<kBytes> codes[kRunsAhead];
  const auto load = [&](int run, KeyCodes<kBytes>* to) {
    if (run < runs.last) {
      *to = LoadCodes<kBytes>(pages[run / 2] + in_page + run % 2 * 32 * kBytes);
    }
  };
#pragma unroll
  for (int i = 0; i < kRunsAhead; ++i) load(runs.first + i, &codes[i]);
  WaitForPrevious();
  AllowNext();

  Search& search = arrays.searches[list];
  const int entries = p.codebooks.subspaces << kBits;
  const uint32_t* kept = arrays.tables + size_t(list) * entries * kWords;
  for (int i = threadIdx.x; i < entries * kWords / 4; i += kThreads) {
    reinterpret_cast<uint4*>(table)[i] = reinterpret_cast<const uint4*>(kept)[i];
  }
  Collecting<kWords> collecting(search);
  ListRanks<kWords> ranks = {};
  ranks.queries = p.per_head ? 1 : p.group;
  ranks.step = search.step;
  Exponentials<kWords> exponentials(search.step, search.largest_sum, ranks.queries);
  const int warp_room = runs.of_warp * 32, k = search.k;
  const size_t of_list = size_t(list) * arrays.capacity;
  auto* of_block = reinterpret_cast<Found<kWords>*>(arrays.found) + of_list +
                   size_t(blockIdx.x) * kWarps * warp_room;
  uint32_t* keys = arrays.keys + of_list;
  uint32_t* shared_keys = table + entries * kWords;
  const float* page_scores = arrays.page_scores + size_t(list) * p.layer.max_pages * ranks.queries;
  const auto place = [&](int run, uint32_t(&sums_02)[kWords], uint32_t(&sums_13)[kWords]) {
    if (p.codebooks.position_means == nullptr) return;
    const int page = run / 2, nth = (page - runs.first / 2) % 32;
    if (nth == 0 && (run % 2 == 0 || run == runs.first)) {  // 32 pages at a time, a lane each
      __syncwarp();
      if (page + lane < (runs.last + 1) / 2) {
        const float* scores = page_scores + size_t(page + lane) * ranks.queries;
        StepsOfPage<kWords>(scores, search.bound, ranks.queries, search.step, &placed[warp][lane]);
      }
      __syncwarp();
    }
    const PageSteps<kWords>& steps = placed[warp][nth];
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      sums_02[j] += steps.of_02[j];
      sums_13[j] += steps.of_13[j];
    }
  };
  __syncthreads();
  for (bool again = false;; again = true) {
    const int count = ScanRuns<kBits, kBytes, kWords>(
        runs, begin, end, uint32_t(__cvta_generic_to_shared(table)), collecting, load, place, codes,
        again, &exponentials, of_block + size_t(warp) * warp_room);
    if (lane == 0) s.of_warps[warp + 1] = count;
    __syncthreads();
    if (warp == 0) {
      int sum = lane < kWarps ? s.of_warps[lane + 1] : 0;
      for (int distance = 1; distance < kWarps; distance *= 2) {
        const int before = __shfl_up_sync(~0u, sum, distance);
        if (lane >= distance) sum += before;
      }
      if (lane < kWarps) s.of_warps[lane + 1] = sum;
      if (lane == 0) s.of_warps[0] = 0;
    }
    __syncthreads();
    ExchangeFound(arrays, list, exponentials, again, &s, &ranks);
    OwnCandidate<kWords> first_own;
    first_own.Load(of_block, warp_room, threadIdx.x, ranks, s);
    if (first_own.there) keys[s.first + threadIdx.x] = first_own.key;
    for (int i = threadIdx.x + kThreads; i < s.of_warps[kWarps]; i += kThreads) {
      OwnCandidate<kWords> one;
      one.Load(of_block, warp_room, i, ranks, s);
      keys[s.first + i] = one.key;
    }
    MeetOtherBlocks(&search.arrivals, gridDim.x);
    Threshold threshold = {~0u};
    const bool enough = s.found >= k;
    if (enough && k > 0) threshold = FindThreshold(keys, k, shared_keys, &s);
    const bool complete = enough && int(threshold.key) > collecting.BestLeftOut(ranks);
    if (collecting.least == 0 || k == 0 || complete) {
      WriteSelected(p, arrays, list, of_block, warp_room, ranks, k, threshold, first_own, &s);
      break;
    }
    collecting.TakeAllFrom(enough ? threshold.key : 0, ranks);
#pragma unroll
    for (int i = 0; i < kRunsAhead; ++i) load(runs.first + i, &codes[i]);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) p.counts[list] = k;
}

template <int kBits, int kBytes, int kWords>
Status Launch(const SelectTokensParams& p, const SearchArrays& arrays, GpuStream stream) {
  const size_t table = (size_t{4} * kWords * p.codebooks.subspaces) << kBits;
  auto* kernel = ScanCodesKernel<kBits, kBytes, kWords>;
  PQCACHE_RETURN_IF_ERROR(AllowSharedMemory(kernel, table + kRankSharedBytes));
  return LaunchOverlapping("scan codes", kernel,
                           {dim3(arrays.blocks, arrays.lists), kThreads, table + kRankSharedBytes},
                           stream, p, arrays);
}

}  // namespace

Status LaunchScanCodes(const SelectTokensParams& p, const SearchArrays& arrays, GpuStream stream) {
  return DispatchCodes(p.codebooks.bits, p.layer.bytes_per_key, arrays.words,
                       [&](auto bits, auto bytes, auto words) {
                         return Launch<bits(), bytes(), words()>(p, arrays, stream);
                       });
}

}  // namespace pqcache::attention
