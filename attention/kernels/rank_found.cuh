#pragma once

// Ranks the candidates that the blocks of a list have found and selects the best. Every block sees
// the ranks of all of them, comes to the same threshold and writes those of its own that reach it.

#include "attention/kernels/block_reduce.cuh"
#include "attention/kernels/meeting.cuh"
#include "attention/kernels/search_state.cuh"

namespace pqcache::attention {

constexpr int kRankThreads = 512;
constexpr int kRankWarps = kRankThreads / 32;
constexpr int kRanksInShared = 12288;
constexpr size_t kRankSharedBytes = kRanksInShared * sizeof(uint32_t);
constexpr int kDigitBits = 11;

struct RankShared {
  int of_warps[kRankWarps + 1];  // found by the warps before each
  int first, found;              // of this block's candidates among those of the list; all of those
  float sums[kMaxQueries][kRankWarps];
  int ints[kRankWarps];
  uint32_t lowest[kRankWarps], highest[kRankWarps];
  float base[kMaxQueries], lse[kMaxQueries];
  alignas(16) int bins[1 << kDigitBits];
  int bin, above;
  bool last;
};

// Keys [n] between `lowest` and `highest`; the one that `rank` of them have at least, rank in
// [1, n]. *more is how many are above it.
__device__ inline uint32_t KthLargestKey(const volatile uint32_t* keys, int n, uint32_t lowest,
                                         uint32_t highest, int rank, RankShared* s, int* more) {
  constexpr int kBins = 1 << kDigitBits;
  static_assert(kBins == 4 * kRankThreads, "four bins for each thread");
  auto* mine = reinterpret_cast<int4*>(s->bins) + threadIdx.x;
  int bits = 32 - __clz(highest - lowest);
  uint32_t kth = 0;  // digits of it that are known, relative to the lowest
  int above = 0;
  while (bits > 0) {
    const int shift = max(0, bits - kDigitBits);
    *mine = make_int4(0, 0, 0, 0);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += kRankThreads) {
      const uint32_t key = keys[i] - lowest;
      if (bits >= 32 || key >> bits == kth >> bits) {
        atomicAdd(&s->bins[kBins - 1 - int((key >> shift) & (kBins - 1))], 1);
      }
    }
    __syncthreads();
    const int4 counts = *mine;
    int total;
    int before = above + SumBefore(counts.x + counts.y + counts.z + counts.w, s->ints, &total);
    const int of_bin[] = {counts.x, counts.y, counts.z, counts.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (before < rank && before + of_bin[i] >= rank) {
        s->bin = kBins - 1 - (4 * int(threadIdx.x) + i);
        s->above = before;
      }
      before += of_bin[i];
    }
    __syncthreads();
    kth |= uint32_t(s->bin) << shift;
    above = s->above;
    bits = shift;
  }
  *more = above;
  return lowest + kth;
}

// Of this block, written by any of its warps: not from the first-level cache.
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

// What ranks of a list depend on, the same in all of its blocks.
template <int kWords>
struct ListRanks {
  static constexpr int kQueries = kWordQueries * kWords;
  int queries;
  float step;
  float base[kQueries], lse[kQueries];
  int offsets[kQueries];

  __device__ uint32_t KeyOf(const Found<kWords>& one) const {
    int key = 0;
#pragma unroll
    for (int q = 0; q < kQueries; ++q) {
      const int of_query = SumOf<kWords>(one.sums_02, one.sums_13, q) + offsets[q];
      if (q < queries) key = max(key, of_query);
    }
    return uint32_t(key);
  }
};

// Hands this block's number of candidates and its exponentials to the others and learns theirs:
// where its candidates stand among all, and the log-sum-exp of each query's scores. A scan that
// runs again has no exponentials; `ranks` are as they were.
template <int kWords>
__device__ void ExchangeFound(const SearchArrays& arrays, int list, const Exponentials<kWords>& own,
                              bool again, RankShared* s, ListRanks<kWords>* ranks) {
  Search& search = arrays.searches[list];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, blocks = gridDim.x;
  const auto add = [](float a, float b) { return a + b; };
  const size_t first = size_t(list) * kMaxBlocks;
  if (!again) {
#pragma unroll
    for (int q = 0; q < ranks->kQueries; ++q) {
      const float sum = JoinWarp(own.sums[q], add);
      if (lane == 0) s->sums[q][warp] = sum;
    }
    __syncthreads();
    if (warp < ranks->queries) {
      const float sum = JoinWarp(lane < kRankWarps ? s->sums[warp][lane] : 0, add);
      if (lane == 0) arrays.exponentials[(first + blockIdx.x) * kMaxQueries + warp] = sum;
    }
  }
  if (threadIdx.x == 0) arrays.found_counts[first + blockIdx.x] = s->of_warps[kRankWarps];
  MeetOtherBlocks(&search.arrivals, blocks);
  if (warp == kRankWarps - 1) {
    const int count = lane < blocks ? __ldcg(arrays.found_counts + first + lane) : 0;
    const int before = __reduce_add_sync(~0u, lane < int(blockIdx.x) ? count : 0);
    const int all = __reduce_add_sync(~0u, count);
    if (lane == 0) s->first = before, s->found = all;
  } else if (!again && warp < ranks->queries) {
    const float* sums = arrays.exponentials + first * kMaxQueries + warp;
    const float sum = JoinWarp(lane < blocks ? __ldcg(sums + lane * kMaxQueries) : 0, add);
    if (lane == 0) {
      s->base[warp] = search.base[warp];
      s->lse[warp] = LseOf(sum, search.base[warp], search.step, search.largest_sum[warp]);
    }
  }
  __syncthreads();
  if (again) return;
#pragma unroll
  for (int q = 0; q < ranks->kQueries; ++q) {
    ranks->base[q] = s->base[q];
    ranks->lse[q] = s->lse[q];
  }
  SetOffsets(ranks->base, ranks->lse, ranks->queries, ranks->step, ranks->offsets);
}
static_assert(kMaxBlocks <= 32 && kRankWarps > kMaxQueries, "a lane a block, a warp a query");

// Where this block's candidate number i is.
template <int kWords>
__device__ const Found<kWords>* FoundAt(const Found<kWords>* of_block, int warp_room, int i,
                                        const RankShared& s) {
  int warp = 0;
#pragma unroll
  for (int half = kRankWarps / 2; half > 0; half /= 2) {
    if (s.of_warps[warp + half] <= i) warp += half;
  }
  return of_block + size_t(warp) * warp_room + (i - s.of_warps[warp]);
}

// A candidate of this block and its rank.
template <int kWords>
struct OwnCandidate {
  bool there = false;
  Found<kWords> found;
  uint32_t key = 0;

  __device__ void Load(const Found<kWords>* of_block, int warp_room, int i,
                       const ListRanks<kWords>& ranks, const RankShared& s) {
    there = i < s.of_warps[kRankWarps];
    if (!there) return;
    found = LoadFound(FoundAt(of_block, warp_room, i, s));
    key = ranks.KeyOf(found);
  }
};

// Keys of all candidates of the list, in order of position: the threshold that the best k reach.
struct Threshold {
  uint32_t key;
  int above, above_before, equal_before;  // all above it; of the blocks before, above it and at it
};

__device__ inline Threshold FindThreshold(const uint32_t* all, int k, uint32_t* shared,
                                          RankShared* s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = s->found;
  const bool fits = n <= kRanksInShared;
  uint32_t lowest = ~0u, highest = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < n; i += kRankThreads) {
    const uint32_t key = __ldcg(all + i);
    if (fits) shared[i] = key;
    lowest = min(lowest, key);
    highest = max(highest, key);
  }
  lowest = __reduce_min_sync(~0u, lowest);
  highest = __reduce_max_sync(~0u, highest);
  if (lane == 0) s->lowest[warp] = lowest, s->highest[warp] = highest;
  __syncthreads();
  lowest = __reduce_min_sync(~0u, s->lowest[lane % kRankWarps]);
  highest = __reduce_max_sync(~0u, s->highest[lane % kRankWarps]);
  const volatile uint32_t* keys = fits ? shared : all;  // not from this block's cache
  Threshold t = {};
  t.key = KthLargestKey(keys, n, lowest, highest, k, s, &t.above);
  int above = 0, equal = 0;
  for (int i = threadIdx.x; i < s->first; i += kRankThreads) {
    above += keys[i] > t.key ? 1 : 0;
    equal += keys[i] == t.key ? 1 : 0;
  }
  above = __reduce_add_sync(~0u, above);
  equal = __reduce_add_sync(~0u, equal);
  __syncthreads();  // every warp has read lowest and highest
  if (lane == 0) s->lowest[warp] = above, s->highest[warp] = equal;
  __syncthreads();
  t.above_before = __reduce_add_sync(~0u, lane < kRankWarps ? s->lowest[lane] : 0);
  t.equal_before = __reduce_add_sync(~0u, lane < kRankWarps ? s->highest[lane] : 0);
  return t;
}

// The block that finishes last adds up the shares and writes what is left of the queries'
// attention.
template <int kWords>
__device__ void StoreUnselected(const SelectTokensParams& p, const SearchArrays& arrays, int list,
                                int k, const ListRanks<kWords>& ranks,
                                const float (&shares)[ListRanks<kWords>::kQueries], RankShared* s) {
  Search& search = arrays.searches[list];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, blocks = gridDim.x;
  const auto add = [](float a, float b) { return a + b; };
  float* of_list = arrays.shares + size_t(list) * kMaxBlocks * kMaxQueries;
#pragma unroll
  for (int q = 0; q < ranks.kQueries; ++q) {
    const float share = JoinWarp(shares[q], add);
    if (lane == 0) s->sums[q][warp] = share;
  }
  __syncthreads();
  if (warp < ranks.queries) {
    const float share = JoinWarp(lane < kRankWarps ? s->sums[warp][lane] : 0, add);
    if (lane == 0) of_list[blockIdx.x * kMaxQueries + warp] = share;
  }
  if (!FinishesLast(&search.blocks_done, &s->last) || warp >= ranks.queries) return;
  const float share =
      JoinWarp(lane < blocks ? __ldcg(of_list + lane * kMaxQueries + warp) : 0, add);
  if (lane == 0) {
    // Rounding alone must not leave anything of candidates that are all selected.
    const bool rest = k < search.end - search.begin && share < 1;
    p.unselected_lse[list * ranks.queries + warp] =
        rest ? s->lse[warp] + log1pf(-share) + search.nats[warp] : -INFINITY;
  }
}

// Writes the block's candidates that are among the best k, in order, and their shares of each
// query's attention. `one` is the thread's first.
template <int kWords>
__device__ void WriteSelected(const SelectTokensParams& p, const SearchArrays& arrays, int list,
                              const Found<kWords>* of_block, int warp_room,
                              const ListRanks<kWords>& ranks, int k, const Threshold& t,
                              OwnCandidate<kWords> one, RankShared* s) {
  const int own = s->of_warps[kRankWarps];
  const int room = k - t.above;  // for those at the threshold
  int above_before = t.above_before, equal_before = t.equal_before;
  int* list_positions = p.positions + size_t(list) * p.max_selected;
  float shares[ListRanks<kWords>::kQueries] = {};
  for (int first = 0; first < own; first += kRankThreads) {
    if (first > 0) one.Load(of_block, warp_room, first + threadIdx.x, ranks, *s);
    const bool above = one.there && one.key > t.key, equal = one.there && one.key == t.key;
    // Both counts in one number: neither has more than a block's threads.
    int all;
    const int before = SumBefore((above ? 1 : 0) | (equal ? 1 << 16 : 0), s->ints, &all);
    const int equals = (before >> 16) + equal_before;
    if (above || (equal && equals < room)) {
      list_positions[(before & 0xffff) + above_before + min(equals, room)] = one.found.position;
#pragma unroll
      for (int q = 0; q < ranks.kQueries; ++q) {
        const float sum = float(SumOf<kWords>(one.found.sums_02, one.found.sums_13, q));
        if (q < ranks.queries) shares[q] += __expf(ranks.base[q] + ranks.step * sum - ranks.lse[q]);
      }
    }
    above_before += all & 0xffff;
    equal_before += all >> 16;
  }
  if (p.unselected_lse != nullptr) StoreUnselected<kWords>(p, arrays, list, k, ranks, shares, s);
}

}  // namespace pqcache::attention
