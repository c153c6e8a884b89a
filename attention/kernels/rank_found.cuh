#pragma once

// Ranks the candidates that a scan found and selects the best: by one block, for one list. A thread
// has the candidates of one segment, so that what it writes ascends.

#include "attention/kernels/block_reduce.cuh"
#include "attention/kernels/search_state.cuh"

namespace pqcache::attention {

constexpr int kRankThreads = 512;
static_assert(kMaxSegments == kRankThreads, "a thread for each segment");
constexpr int kRanksInShared = 8192;
constexpr size_t kRankSharedBytes = kRanksInShared * sizeof(uint32_t);
constexpr int kDigitBits = 11;

struct RankShared {
  float exponentials[kMaxQueries][kRankThreads / 32];
  int ints[kRankThreads / 32];
  uint32_t lowest[kRankThreads / 32], highest[kRankThreads / 32];
  float lse[kMaxQueries];
  int units[kMaxQueries];
  int bins[1 << kDigitBits];
  int bin, above;
};

// Keys [n] between `lowest` and `highest`; the one that `rank` of them have at least, rank in
// [1, n]. *more is how many are above it.
__device__ inline uint32_t KthLargestKey(const uint32_t* keys, int n, uint32_t lowest,
                                         uint32_t highest, int rank, RankShared* s, int* more) {
  int bits = 32 - __clz(highest - lowest);
  uint32_t kth = 0;  // digits of it that are known, relative to the lowest
  int above = 0;
  while (bits > 0) {
    const int digit_bits = min(bits, kDigitBits), shift = bits - digit_bits;
    const int bins = 1 << digit_bits;
    for (int i = threadIdx.x; i < bins; i += kRankThreads) s->bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += kRankThreads) {
      const uint32_t key = keys[i] - lowest;
      if (bits >= 32 || key >> bits == kth >> bits) {
        atomicAdd(&s->bins[bins - 1 - int((key >> shift) & (bins - 1))], 1);
      }
    }
    __syncthreads();
    const int of_thread = (bins + kRankThreads - 1) / kRankThreads;
    const int first = threadIdx.x * of_thread;
    int count = 0;
    for (int i = first; i < min(first + of_thread, bins); ++i) count += s->bins[i];
    int total;
    int before = above + SumBefore(count, s->ints, &total);
    for (int i = first; i < min(first + of_thread, bins); ++i) {
      if (before < rank && before + s->bins[i] >= rank) {
        s->bin = bins - 1 - i;
        s->above = before;
      }
      before += s->bins[i];
    }
    __syncthreads();
    kth |= uint32_t(s->bin) << shift;
    above = s->above;
    bits = shift;
    __syncthreads();
  }
  *more = above;
  return lowest + kth;
}

// Written by other blocks: not from this one's cache.
template <int kWords>
__device__ Found<kWords> LoadFound(const Found<kWords>* from) {
  union {
    Found<kWords> found;
    uint4 parts[sizeof(Found<kWords>) / 16];
  } u;
#pragma unroll
  for (int i = 0; i < int(sizeof(Found<kWords>) / 16); ++i) {
    u.parts[i] = __ldcg(reinterpret_cast<const uint4*>(from) + i);
  }
  return u.found;
}

// Calls use(i, candidate) for those of a segment, in order. Several are on their way at a time.
template <int kWords, typename Use>
__device__ void ForFound(const Found<kWords>* candidates, int count, const Use& use) {
  constexpr int kAhead = 8 / kWords;
  for (int first = 0; first < count; first += kAhead) {
    Found<kWords> batch[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i < count) batch[i] = LoadFound(candidates + first + i);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i < count) use(first + i, batch[i]);
    }
  }
}

// Log-sum-exp of each query's scores over all candidates, and what it makes of ranks.
template <int kWords>
__device__ void SetExactOffsets(const SearchArrays& arrays, int list, int queries, int segments,
                                bool summed, RankShared* s) {
  Search& search = arrays.searches[list];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (!summed) {
    const auto* sums = reinterpret_cast<const float4*>(arrays.exponentials) +
                       (size_t(list) * kMaxSegments + threadIdx.x) * kWords;
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      const float4 of_thread =
          int(threadIdx.x) < segments ? __ldcg(sums + j) : make_float4(0, 0, 0, 0);
      const float four[] = {of_thread.x, of_thread.y, of_thread.z, of_thread.w};
#pragma unroll
      for (int q = 0; q < kWordQueries; ++q) {
        const float sum = JoinWarp(four[q], [](float a, float b) { return a + b; });
        if (lane == 0) s->exponentials[j * kWordQueries + q][warp] = sum;
      }
    }
    __syncthreads();
    if (warp < queries) {
      const float of_lane = lane < kRankThreads / 32 ? s->exponentials[warp][lane] : 0;
      const float sum = JoinWarp(of_lane, [](float a, float b) { return a + b; });
      if (lane == 0) {
        search.lse[warp] = LseOf(sum, search.base[warp], search.step, search.largest_sum[warp]);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    s->units[0] = 0;
    if (queries > 1) SetOffsets(search.base, search.lse, queries, search.step, s->units);
  }
  __syncthreads();
}

// The key that a candidate may have that the scan did not find, and no more.
__device__ inline int BestUnfound(const Search& search, int queries, const RankShared& s) {
  int best = -1;
  for (int q = 0; q < queries; ++q) {
    const uint32_t pair = q % 2 == 0 ? search.offsets_02[q / 4] : search.offsets_13[q / 4];
    const int offset = q % 4 < 2 ? LowHalf(pair) : HighHalf(pair);
    const int sum = search.least - 1 - offset;
    if (sum >= 0) best = max(best, sum * kRankUnits + s.units[q]);
  }
  return best;
}

// For another scan: one that finds every candidate with the key of those found so far, or all.
template <int kWords>
__device__ void AskForRetry(int least, int queries, const RankShared& s, Search* search) {
  search->retry = 1;
  search->least = least;
  for (int j = 0; j < kWords; ++j) search->offsets_02[j] = search->offsets_13[j] = 0;
  for (int q = 0; q < queries; ++q) {
    const uint32_t offset = uint32_t((s.units[q] + kRankUnits - 1) / kRankUnits)
                            << (q % 4 < 2 ? 0 : 16);
    (q % 2 == 0 ? search->offsets_02 : search->offsets_13)[q / 4] |= offset;
  }
}

// Adds a candidate's share of each query's attention to all candidates.
template <int kWords>
__device__ void AddShares(const Found<kWords>& one, const Search& search, int queries,
                          float (&shares)[kWordQueries * kWords]) {
#pragma unroll
  for (int q = 0; q < kWordQueries * kWords; ++q) {
    if (q >= queries) continue;
    const float sum = float(SumOf<kWords>(one.sums_02, one.sums_13, q));
    shares[q] += __expf(search.base[q] + search.step * sum - search.lse[q]);
  }
}

// From what each thread's selected candidates have of the queries' attention.
template <int kWords>
__device__ void StoreUnselected(const SelectTokensParams& p, const Search& search, int list,
                                int queries, const float (&selected)[kWordQueries * kWords],
                                RankShared* s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int q = 0; q < kWordQueries * kWords; ++q) {
    const float share = JoinWarp(selected[q], [](float a, float b) { return a + b; });
    if (lane == 0) s->exponentials[q][warp] = share;
  }
  __syncthreads();
  if (warp >= queries) return;
  const float of_lane = lane < kRankThreads / 32 ? s->exponentials[warp][lane] : 0;
  const float share = JoinWarp(of_lane, [](float a, float b) { return a + b; });
  if (lane == 0) {
    // Rounding alone must not leave anything of candidates that are all selected.
    const bool rest = search.k < search.end - search.begin && share < 1;
    p.unselected_lse[list * queries + warp] = rest ? search.lse[warp] + log1pf(-share) : -INFINITY;
  }
}

// After a scan whose warps took `segment_tokens` candidates each. Writes the list, or asks for
// another scan.
template <int kWords>
__device__ void RankFound(const SelectTokensParams& p, const SearchArrays& arrays, int list,
                          int segment_tokens, bool retry, uint32_t* shared, RankShared* s) {
  Search& search = arrays.searches[list];
  const int queries = p.per_head ? 1 : p.group;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int segments = arrays.blocks * (kRankThreads / 32);
  const size_t of_list = size_t(list) * arrays.capacity;
  const auto* candidates = reinterpret_cast<const Found<kWords>*>(arrays.found) + of_list +
                           size_t(threadIdx.x) * segment_tokens;
  const int count = int(threadIdx.x) < segments
                        ? __ldcg(arrays.segment_counts + size_t(list) * kMaxSegments + threadIdx.x)
                        : 0;
  int found;
  const int first = SumBefore(count, s->ints, &found);
  SetExactOffsets<kWords>(arrays, list, queries, segments, retry, s);
  const bool fits = found <= kRanksInShared;
  uint32_t* keys = fits ? shared : arrays.keys + of_list;
  uint32_t lowest = ~0u, highest = 0;
  ForFound<kWords>(candidates, count, [&](int i, const Found<kWords>& one) {
    int key = 0;
#pragma unroll
    for (int q = 0; q < kWordQueries * kWords; ++q) {
      const int of_query = SumOf<kWords>(one.sums_02, one.sums_13, q) * kRankUnits + s->units[q];
      if (q < queries) key = max(key, of_query);
    }
    keys[first + i] = uint32_t(key);
    lowest = min(lowest, uint32_t(key));
    highest = max(highest, uint32_t(key));
  });
  lowest = __reduce_min_sync(~0u, lowest);
  highest = __reduce_max_sync(~0u, highest);
  if (lane == 0) s->lowest[warp] = lowest, s->highest[warp] = highest;
  __syncthreads();
  lowest = __reduce_min_sync(~0u, s->lowest[lane % (kRankThreads / 32)]);
  highest = __reduce_max_sync(~0u, s->highest[lane % (kRankThreads / 32)]);

  const int k = search.k;
  int more = 0;
  uint32_t kth = 0;
  if (found >= k && k > 0) kth = KthLargestKey(keys, found, lowest, highest, k, s, &more);
  if (search.least > 0 && k > 0 && (found < k || int(kth) <= BestUnfound(search, queries, *s))) {
    __syncthreads();
    if (threadIdx.x == 0) {
      AskForRetry<kWords>(found < k ? 0 : int(kth) / kRankUnits, queries, *s, &search);
    }
    return;
  }
  if (threadIdx.x == 0) {
    search.retry = 0;
    p.counts[list] = k;
  }
  int above = 0, equal = 0;
  for (int i = first; i < first + count && k > 0; ++i) {
    above += keys[i] > kth ? 1 : 0;
    equal += keys[i] == kth ? 1 : 0;
  }
  int total;
  const int above_before = SumBefore(above, s->ints, &total);
  const int equal_before = SumBefore(equal, s->ints, &total);
  const int equal_room = k - more;
  int equal_left = max(0, equal_room - equal_before);
  int* to =
      p.positions + size_t(list) * p.max_selected + above_before + min(equal_before, equal_room);
  float selected[kWordQueries * kWords] = {};
  ForFound<kWords>(candidates, k > 0 ? count : 0, [&](int i, const Found<kWords>& one) {
    const uint32_t key = keys[first + i];
    bool take = key > kth;
    if (key == kth && equal_left > 0) {
      take = true;
      --equal_left;
    }
    if (!take) return;
    *to++ = one.position;
    AddShares(one, search, queries, selected);
  });
  if (p.unselected_lse != nullptr) StoreUnselected<kWords>(p, search, list, queries, selected, s);
}

}  // namespace pqcache::attention
