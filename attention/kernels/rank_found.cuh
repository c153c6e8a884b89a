#pragma once

// Ranks the candidates that a scan found and selects the best: by one block, for one list.

#include "attention/kernels/block_reduce.cuh"
#include "attention/kernels/search_state.cuh"

namespace pqcache::attention {

constexpr int kRankThreads = 512;
constexpr size_t kRankSharedBytes = 64 * 1024;  // for keys of ranks, beside RankShared
constexpr int kKeysInShared = kRankSharedBytes / sizeof(uint32_t);
constexpr int kDigitBits = 11;

struct RankShared {
  float floats[kRankThreads / 32];
  int ints[kRankThreads / 32];
  int segments[kMaxSegments + 1];  // found before each
  float lse[kMaxQueries];
  int units[kMaxQueries];
  int bins[1 << kDigitBits];
  int bin, above;
};

// segments[i] = found by the warps before i. Gives how many all of them found.
__device__ inline int CountFound(const int* counts, int segments, RankShared* s) {
  const int i = 2 * threadIdx.x;
  const int first = i < segments ? __ldcg(counts + i) : 0;
  const int second = i + 1 < segments ? __ldcg(counts + i + 1) : 0;
  int total;
  const int before = SumBefore(first + second, s->ints, &total);
  s->segments[i] = before;
  s->segments[i + 1] = before + first;
  if (threadIdx.x == 0) s->segments[kMaxSegments] = total;
  __syncthreads();
  return total;
}
static_assert(kMaxSegments == 2 * kRankThreads, "two segments for each thread");

// The segment of item number i, which is below the total.
__device__ inline int SegmentOf(const RankShared& s, int i) {
  int low = 0, high = kMaxSegments;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (s.segments[middle] <= i ? low : high) = middle;
  }
  return low;
}

// The key that `rank` of the keys [n] have at least, rank in [1, n]; *more is how many are above it.
__device__ inline uint32_t KthLargestKey(const uint32_t* keys, int n, int rank, RankShared* s,
                                         int* more) {
  uint32_t lowest = ~0u, highest = 0;
  for (int i = threadIdx.x; i < n; i += kRankThreads) {
    lowest = min(lowest, keys[i]);
    highest = max(highest, keys[i]);
  }
  auto* words = reinterpret_cast<uint32_t*>(s->ints);
  lowest = JoinBlock(lowest, words, ~0u, [](uint32_t a, uint32_t b) { return min(a, b); });
  highest = JoinBlock(highest, words, 0u, [](uint32_t a, uint32_t b) { return max(a, b); });
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

template <int kWords>
struct FoundSums {
  uint32_t sums_02[kWords], sums_13[kWords];
};

template <int kWords>
__device__ FoundSums<kWords> LoadFound(const SearchArrays& arrays, size_t at) {
  FoundSums<kWords> found;
  for (int j = 0; j < kWords; ++j) {
    const uint2 pair = __ldcg(reinterpret_cast<const uint2*>(arrays.found_sums) + at * kWords + j);
    found.sums_02[j] = pair.x;
    found.sums_13[j] = pair.y;
  }
  return found;
}

// Log-sum-exp of each query's scores over all candidates, and what it makes of ranks.
__device__ inline void SetExactOffsets(const SearchArrays& arrays, int list, int queries,
                                       bool summed, RankShared* s) {
  Search& search = arrays.searches[list];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (!summed && warp < queries) {
    const float* sums = arrays.exponentials + size_t(list) * arrays.blocks * kMaxQueries + warp;
    float sum = 0;
    for (int i = lane; i < arrays.blocks; i += 32) sum += __ldcg(sums + i * kMaxQueries);
    sum = JoinWarp(sum, [](float a, float b) { return a + b; });
    if (lane == 0) {
      search.lse[warp] = LseOf(sum, search.base[warp], search.step, search.largest_sum[warp]);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    if (queries > 1) {
      SetOffsets(search.base, search.lse, queries, search.step, s->units);
    } else {
      s->units[0] = 0;
    }
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

// After a scan whose warps took `segment_tokens` candidates each. Writes the list, or asks for
// another scan.
template <int kWords>
__device__ void RankFound(const SelectTokensParams& p, const SearchArrays& arrays, int list,
                          int segment_tokens, bool retry, uint32_t* shared_keys, RankShared* s) {
  Search& search = arrays.searches[list];
  const int queries = p.per_head ? 1 : p.group;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int segments = arrays.blocks * (kRankThreads / 32);
  const int* counts = arrays.segment_counts + size_t(list) * kMaxSegments;
  const int found = CountFound(counts, segments, s);
  SetExactOffsets(arrays, list, queries, retry, s);
  const size_t first = size_t(list) * arrays.capacity;
  uint32_t* keys = found <= kKeysInShared ? shared_keys : arrays.keys + first;
  for (int segment = warp; segment < segments; segment += kRankThreads / 32) {
    const int to = s->segments[segment];
    const int count = (segment + 1 < kMaxSegments ? s->segments[segment + 1] : found) - to;
    for (int i = lane; i < count; i += 32) {
      const auto sums = LoadFound<kWords>(arrays, first + size_t(segment) * segment_tokens + i);
      int key = 0;
      for (int q = 0; q < queries; ++q) {
        key = max(key,
                  SumOf<kWords>(sums.sums_02, sums.sums_13, q) * kRankUnits + s->units[q]);
      }
      keys[to + i] = uint32_t(key);
    }
  }
  __syncthreads();

  const int k = search.k;
  int more = 0;
  uint32_t kth = 0;
  if (found >= k && k > 0) kth = KthLargestKey(keys, found, k, s, &more);
  if (search.least > 0 && k > 0 && (found < k || int(kth) <= BestUnfound(search, queries, *s))) {
    // Every candidate that has the key found so far, or all candidates.
    __syncthreads();
    if (threadIdx.x == 0) {
      search.retry = 1;
      search.least = found < k ? 0 : int(kth) / kRankUnits;
      for (int j = 0; j < kWords; ++j) search.offsets_02[j] = search.offsets_13[j] = 0;
      for (int q = 0; q < queries; ++q) {
        const uint32_t offset = uint32_t((s->units[q] + kRankUnits - 1) / kRankUnits)
                                << (q % 4 < 2 ? 0 : 16);
        (q % 2 == 0 ? search.offsets_02 : search.offsets_13)[q / 4] |= offset;
      }
    }
    return;
  }
  if (threadIdx.x == 0) search.retry = 0;

  // A thread takes consecutive items, so that the list ascends.
  const int of_thread = (found + kRankThreads - 1) / kRankThreads;
  const int begin = min(found, int(threadIdx.x) * of_thread);
  const int end = min(found, begin + of_thread);
  int above = 0, equal = 0;
  for (int i = begin; i < end; ++i) {
    above += keys[i] > kth ? 1 : 0;
    equal += keys[i] == kth ? 1 : 0;
  }
  if (k == 0) above = equal = 0;
  int total;
  const int equal_before = SumBefore(equal, s->ints, &total);
  const int above_before = SumBefore(above, s->ints, &total);
  const int equal_room = k - more;
  int to = above_before + min(equal_before, equal_room);
  int equal_left = max(0, equal_room - equal_before);
  float selected[kWordQueries * kWords] = {};
  int segment = begin < end ? SegmentOf(*s, begin) : 0;
  for (int i = begin; i < end && k > 0; ++i) {
    while (segment + 1 < kMaxSegments && s->segments[segment + 1] <= i) ++segment;
    bool take = keys[i] > kth;
    if (keys[i] == kth && equal_left > 0) {
      take = true;
      --equal_left;
    }
    if (!take) continue;
    const size_t at = first + size_t(segment) * segment_tokens + (i - s->segments[segment]);
    p.positions[size_t(list) * p.max_selected + to++] = __ldcg(arrays.found_positions + at);
    if (p.unselected_lse == nullptr) continue;
    const auto sums = LoadFound<kWords>(arrays, at);
#pragma unroll
    for (int q = 0; q < kWordQueries * kWords; ++q) {
      if (q < queries) {
        const float score = search.base[q] + search.step * float(SumOf<kWords>(sums.sums_02,
                                                                               sums.sums_13, q));
        selected[q] += expf(score - search.lse[q]);
      }
    }
  }
  if (threadIdx.x == 0) p.counts[list] = k;
  if (p.unselected_lse == nullptr) return;
#pragma unroll
  for (int q = 0; q < kWordQueries * kWords; ++q) {
    const float share =
        JoinBlock(selected[q], s->floats, 0.0f, [](float a, float b) { return a + b; });
    if (threadIdx.x == 0 && q < queries) {
      // Rounding alone must not leave anything of candidates that are all selected.
      const bool rest = k < search.end - search.begin && share < 1;
      p.unselected_lse[list * queries + q] =
          rest ? search.lse[q] + log1pf(-share) : -INFINITY;
    }
  }
}

}  // namespace pqcache::attention
