// One block for each list, one for each new token and KV head that is appended and, with position
// means, some for each sequence that score its pages. That of a list turns its queries, makes their
// tables of whole numbers (the same to the bit as QuantisedTables::Set; with position means but for
// the rounding of their bounds), scores a sample of the candidates in runs of 32 neighbours and
// takes from it the worth above which enough candidates will be found. Reads the transform, the
// centroids twice (the second time from cache), the sampled codes and, with position means, 16
// bytes a pair of channels for every page; writes tables, thresholds, ScoreNats and what pages add
// to scores.

#include <cuda_runtime.h>

#include <algorithm>

#include "attention/kernels/append_block.cuh"
#include "attention/kernels/block_reduce.cuh"
#include "attention/kernels/code_sums.cuh"
#include "attention/kernels/dispatch.cuh"
#include "attention/kernels/launch.cuh"
#include "attention/kernels/list_place.cuh"
#include "attention/kernels/position_mean.cuh"
#include "attention/kernels/search_state.cuh"
#include "attention/kernels/select_internal.h"
#include "attention/kernels/vector_product.cuh"

namespace pqcache::attention {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kSampledTokens = 2;  // of a thread
constexpr int kSample = kThreads * kSampledTokens;
// Fewer candidates are all collected.
constexpr int kFewCandidates = 2 * kSample;
constexpr int kMaxSubspaces = 64;
constexpr int kBins = 1024;

struct Shared {
  float given[kMaxQueries][128];    // queries, zeros for absent ones
  float queries[kMaxQueries][128];  // turned and scaled
  // Of the entries of a sub-space, as unsigned numbers in the same order.
  unsigned low[kMaxSubspaces][kMaxQueries], high[kMaxSubspaces][kMaxQueries];
  float base[kMaxQueries], bound[kMaxQueries], range[kMaxQueries], lse[kMaxQueries];
  int largest_sum[kMaxQueries], largest_steps[kMaxQueries];
  float step;
  float partial[kMaxQueries][kWarps];
  int lowest[kWarps], highest[kWarps], ints[kWarps];
  int bins[kBins];
  int least;
  MeanProducts products[kMaxQueries];  // with position means
};

__device__ unsigned Ordered(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float FromOrdered(unsigned x) {
  return __uint_as_float(x & 0x80000000u ? x & 0x7fffffffu : ~x);
}

struct Most {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};
struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

__device__ int Quantised(float entry, float low, float inverse_step) {
  return int(__fadd_rn(__fmul_rn(__fsub_rn(entry, low), inverse_step), 0.5f));
}

// Compile-time shape of a list's tables.
template <int kDimension, int kCodeBits, int kKeyBytes, int kEntryWords>
struct TableShape {
  static constexpr int kDim = kDimension, kBits = kCodeBits, kBytes = kKeyBytes,
                       kWords = kEntryWords;
  static constexpr int kSubspaces = kBytes * 8 / kBits;
  static constexpr int kEntries = kSubspaces << kBits;
  static constexpr int kSub = kDim / kSubspaces;
  static constexpr int kQueries = kWordQueries * kWords;
};

// Calls use(entry number, sub-space, query, score) for all entries of the tables. Entries of absent
// queries come, too: theirs are zeros.
template <typename Shape, typename Use>
__device__ void ForEntries(const float* centroids, const Shared& s, const Use& use) {
#pragma unroll 1
  for (int e = threadIdx.x; e < Shape::kEntries; e += kThreads) {
    const int m = e >> Shape::kBits;
    float centroid[Shape::kSub];
#pragma unroll
    for (int d = 0; d < Shape::kSub; ++d) centroid[d] = __ldg(centroids + e * Shape::kSub + d);
    float sums[Shape::kQueries] = {};
#pragma unroll
    for (int d = 0; d < Shape::kSub; ++d) {
#pragma unroll
      for (int q = 0; q < Shape::kQueries; ++q) {
        const float x = s.queries[q][m * Shape::kSub + d];
        sums[q] = __fadd_rn(sums[q], __fmul_rn(x, centroid[d]));
      }
    }
#pragma unroll
    for (int q = 0; q < Shape::kQueries; ++q) use(e, m, q, sums[q]);
  }
}

// The rows of the query transform that half a warp has, lane by lane.
template <int kDim>
struct TransformRows {
  static constexpr int kOfLane = kDim / 16, kRows = (kDim * 16 + kThreads - 1) / kThreads;
  float x[kRows][kOfLane];

  __device__ static int Row(int r) { return r * (kThreads / 16) + threadIdx.x / 16; }
  __device__ void Load(const float* transform) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) {
        x[r][i] = __ldg(transform + Row(r) * kDim + i * 16 + threadIdx.x % 16);
      }
    }
  }
};

// The queries of s turned and scaled; sums are those of DotByHalfWarp.
template <int kDim, int kQueries>
__device__ void TurnQueries(const TransformRows<kDim>& rows, bool identity, float scale,
                            Shared* s) {
  if (identity) {
    for (int i = threadIdx.x; i < kQueries * kDim; i += kThreads) {
      s->queries[i / kDim][i % kDim] = __fmul_rn(s->given[i / kDim][i % kDim], scale);
    }
    return;
  }
  const int lane = threadIdx.x % 16;
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
#pragma unroll
    for (int r = 0; r < TransformRows<kDim>::kRows; ++r) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < TransformRows<kDim>::kOfLane; ++i) {
        sum = __fadd_rn(sum, __fmul_rn(s->given[q][i * 16 + lane], rows.x[r][i]));
      }
      sum = SumOfHalfWarp(sum);
      if (lane == 0) s->queries[q][rows.Row(r)] = __fmul_rn(sum, scale);
    }
  }
}

// HeadCodebook::ScoreNats of the list's queries, a warp for each.
template <int kDim>
__device__ void StoreNats(float residual, int queries, const Shared& s, Search* search) {
  const int q = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (q >= queries) return;
  float squares = 0;
#pragma unroll
  for (int d = lane; d < kDim; d += 32) squares += s.queries[q][d] * s.queries[q][d];
  squares = JoinWarp(squares, Sum());
  if (lane == 0) search->nats[q] = 0.5f * squares * residual / kDim;
}

// One step for all queries: the widest range of a sub-space over the largest entry.
template <int kSubspaces, int kDim>
__device__ void SetSteps(const SelectTokensParams& p, int head, int queries, Shared* s) {
  static_assert(kSubspaces * 127 <= 16383, "the largest entry is that of QuantisedTables");
  constexpr float kLargest = 127;
  constexpr float kRoom = 32767 - kLargest * kSubspaces - 1;
  const int q = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (q < queries) {
    float bound = 0;
    if (p.codebooks.position_means != nullptr) {
      bound = p.scale * BoundOfMeans(p.codebooks, head, kDim, s->given[q]);
    }
    float range = fmaxf(1e-30f, 2 * bound / kRoom * kLargest);
#pragma unroll
    for (int m = lane; m < kSubspaces; m += 32) {
      range = fmaxf(range, __fsub_rn(FromOrdered(s->high[m][q]), FromOrdered(s->low[m][q])));
    }
    range = JoinWarp(range, Most());
    float base = 0;  // one after the other, as on the CPU
#pragma unroll
    for (int m = 0; m < kSubspaces; ++m) base = __fadd_rn(base, FromOrdered(s->low[m][q]));
    if (lane == 0) s->range[q] = range, s->base[q] = base - bound, s->bound[q] = bound;
  }
  __syncthreads();
  float range = s->range[0];
  for (int i = 1; i < queries; ++i) range = fmaxf(range, s->range[i]);
  const float step = range / kLargest;
  if (threadIdx.x == 0) s->step = step;
  if (q < queries) {
    int sum = 0;
#pragma unroll
    for (int m = lane; m < kSubspaces; m += 32) {
      sum += Quantised(FromOrdered(s->high[m][q]), FromOrdered(s->low[m][q]), 1.0f / step);
    }
    sum = JoinWarp(sum, Sum());
    if (lane == 0) s->largest_sum[q] = sum;
  }
  __syncthreads();
}

// Log-sum-exp of every query's scores, from the sums of the sample.
template <int kWords>
__device__ void EstimateLse(const uint32_t (&sums_02)[kSampledTokens][kWords],
                            const uint32_t (&sums_13)[kSampledTokens][kWords], int queries,
                            float rows_of_each, Shared* s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Exponentials<kWords> exponentials(s->step, s->largest_sum, queries);
#pragma unroll
  for (int i = 0; i < kSampledTokens; ++i) exponentials.Add(sums_02[i], sums_13[i]);
#pragma unroll
  for (int q = 0; q < kWordQueries * kWords; ++q) {
    const float sum = JoinWarp(exponentials.sums[q], Sum());
    if (lane == 0) s->partial[q][warp] = sum;
  }
  __syncthreads();
  if (warp < queries) {
    const float sum = JoinWarp(s->partial[warp][lane], Sum());
    if (lane == 0) {
      s->lse[warp] = LseOf(sum * rows_of_each, s->base[warp], s->step, s->largest_sum[warp]);
    }
  }
  __syncthreads();
}
static_assert(kWarps == 32, "a lane for each warp");

// The worth that `rank` of the sampled candidates have, or a little less.
__device__ int FindLeast(const int (&worth)[kSampledTokens], int rank, Shared* s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int lowest = worth[0], highest = worth[0];
  for (int i = 1; i < kSampledTokens; ++i) {
    lowest = min(lowest, worth[i]);
    highest = max(highest, worth[i]);
  }
  lowest = __reduce_min_sync(~0u, lowest);
  highest = __reduce_max_sync(~0u, highest);
  if (lane == 0) s->lowest[warp] = lowest, s->highest[warp] = highest;
  s->bins[threadIdx.x] = 0;
  __syncthreads();
  lowest = __reduce_min_sync(~0u, s->lowest[lane]);
  highest = __reduce_max_sync(~0u, s->highest[lane]);
  int shift = 0;
  while ((highest - lowest) >> shift >= kBins) ++shift;
  for (int i = 0; i < kSampledTokens; ++i) {
    atomicAdd(&s->bins[kBins - 1 - ((worth[i] - lowest) >> shift)], 1);
  }
  __syncthreads();
  const int count = s->bins[threadIdx.x];
  int total;
  const int before = SumBefore(count, s->ints, &total);
  if (before < rank && before + count >= rank) {
    s->least = lowest + ((kBins - 1 - int(threadIdx.x)) << shift);
  }
  __syncthreads();
  return s->least;
}
static_assert(kBins == kThreads, "a thread for each bin");

// Of a sampled token of this thread.
__device__ inline int SampledToken(int i, int begin, int end) {
  const int first = (begin + 31) / 32, runs = end / 32 - first;
  const int run = i * kWarps + threadIdx.x / 32;
  return (first + int((long long)(run)*runs / (kSampledTokens * kWarps))) * 32 + threadIdx.x % 32;
}

// What the pages of the sampled tokens of this thread, or of all if there are few, add to sums, and
// with it what exponentials are taken relative to: the largest such sum, and a little more for
// pages that are not looked at. The bound of the tables may lie far above all of them.
template <int kDim, int kWords>
__device__ void PlaceSample(const SelectTokensParams& p, int head, int queries, int begin, int end,
                            bool many, uint32_t (&placed_02)[kSampledTokens][kWords],
                            uint32_t (&placed_13)[kSampledTokens][kWords], Shared* s) {
  constexpr float kMore = 4;  // of a score; far less than what exponentials have room for
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  SetMeanProducts(p.codebooks, head, 1, queries, kDim, s->given[0], 128, s->products);
  __syncthreads();
  static_assert(kSampledTokens * kPageLanes <= 32, "all of them at the same time");
  const int mine = min(lane / kPageLanes, kSampledTokens - 1);
  const int page = many ? SampledToken(mine, begin, end) / kGpuPageTokens
                        : begin / kGpuPageTokens + mine * kWarps + warp;
  const bool there = page * kGpuPageTokens < end;
  const PagePhases<kDim> phases(p.codebooks, there ? page : 0);
  float scores[kWordQueries * kWords] = {};
#pragma unroll
  for (int q = 0; q < kWordQueries * kWords; ++q) {
    if (q < queries) scores[q] = p.scale * phases.Score(s->products[q]);
  }
  PageSteps<kWords> steps;
  StepsOfPage<kWords>(scores, s->bound, queries, s->step, &steps);
  if (there && lane % kPageLanes == 0 && lane / kPageLanes < kSampledTokens) {
    for (int q = 0; q < queries; ++q) {
      atomicMax(&s->largest_steps[q], SumOf<kWords>(steps.of_02, steps.of_13, q));
    }
  }
#pragma unroll
  for (int i = 0; i < kSampledTokens; ++i) {
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      placed_02[i][j] = __shfl_sync(~0u, steps.of_02[j], i * kPageLanes);
      placed_13[i][j] = __shfl_sync(~0u, steps.of_13[j], i * kPageLanes);
    }
  }
  __syncthreads();
  const int q = threadIdx.x;
  if (q < queries) {
    const int most = int(2 * s->bound[q] / s->step + 0.5f);
    s->largest_sum[q] += min(most, s->largest_steps[q] + int(kMore / s->step));
  }
}

// What the places of pages add to the scores of all queries of a sequence: a part of its pages.
template <int kDim>
__device__ void ScorePages(const SelectTokensParams& p, const SearchArrays& arrays, int block,
                           MeanProducts* products) {
  const int sequence = block / arrays.page_blocks, heads = p.layer.kv_heads * p.group;
  SetMeanProducts(p.codebooks, 0, p.layer.kv_heads, p.group, kDim,
                  p.queries + size_t(sequence) * heads * kDim, kDim, products);
  const int end = max(0, p.layer.tokens[sequence] - p.window.local_window);
  const int pages = (end + kGpuPageTokens - 1) / kGpuPageTokens;
  const int first = min(p.window.n_sink, end) / kGpuPageTokens;
  static_assert(kPagesAtOnce == kThreads / kPageLanes, "eight lanes a page");
  __syncthreads();
  const int of_list = p.per_head ? 1 : p.group;
  float* scores = arrays.page_scores + size_t(sequence) * heads * p.layer.max_pages;
  for (int ahead = first + block % arrays.page_blocks * kPagesAtOnce; ahead < pages;
       ahead += arrays.page_blocks * kPagesAtOnce) {
    const int page = ahead + threadIdx.x / kPageLanes;
    const PagePhases<kDim> phases(p.codebooks, min(page, pages - 1));
    for (int q = 0; q < heads; ++q) {
      const float score = p.scale * phases.Score(products[q]);
      if (page >= pages || threadIdx.x % kPageLanes != q % kPageLanes) continue;
      const int list = q / of_list;
      scores[(size_t(list) * p.layer.max_pages + page) * of_list + q % of_list] = score;
    }
  }
}

template <typename Shape>
__global__ void __launch_bounds__(kThreads, 1)
    ScoreTablesKernel(SelectTokensParams p, SearchArrays arrays, AppendTokensParams append) {
  constexpr int kBits = Shape::kBits, kBytes = Shape::kBytes, kWords = Shape::kWords;
  constexpr int kDim = Shape::kDim;
  __shared__ Shared s;
  extern __shared__ __align__(kTableAlignment) uint32_t table[];  // [M * K, words]
  const int list = blockIdx.x;
  const int appended = int(gridDim.x) - arrays.page_blocks * p.layer.batch;
  if (list >= appended) {
    WaitForPrevious();
    AllowNext();
    ScorePages<kDim>(p, arrays, list - appended, reinterpret_cast<MeanProducts*>(table));
    return;
  }
  if (list >= arrays.lists) {
    const int i = list - arrays.lists;
    WaitForPrevious();
    AllowNext();
    AppendBlock(append, p.codebooks, i / p.layer.kv_heads, i % p.layer.kv_heads, 0, 1,
                reinterpret_cast<float*>(&s));
    return;
  }
  const auto [head, sequence] = PlaceOfList(list, p.per_head ? p.group : 1, p.layer.kv_heads);
  const int queries = p.per_head ? 1 : p.group;
  const float* centroids = p.codebooks.centroids + size_t(head) * Shape::kEntries * Shape::kSub;

  TransformRows<kDim> transform = {};
  const bool identity = p.codebooks.query_transform == nullptr;
  if (!identity) transform.Load(p.codebooks.query_transform + size_t(head) * kDim * kDim);
  const float residual = p.codebooks.residuals[head];
  for (int i = threadIdx.x; i < kMaxSubspaces * kMaxQueries; i += kThreads) {
    (&s.low[0][0])[i] = ~0u;
    (&s.high[0][0])[i] = 0;
  }
  if (threadIdx.x < kMaxQueries) s.largest_steps[threadIdx.x] = 0;
  WaitForPrevious();
  AllowNext();
  const int tokens = p.layer.tokens[sequence];
  for (int i = threadIdx.x; i < Shape::kQueries * kDim; i += kThreads) {
    s.given[i / kDim][i % kDim] =
        i < queries * kDim ? p.queries[size_t(list) * queries * kDim + i] : 0;
  }
  const int end = max(0, tokens - p.window.local_window);
  const int begin = min(p.window.n_sink, end);
  const int n = end - begin;
  const bool many = n >= kFewCandidates;
  // The sampled codes are on their way while the tables are made.
  const uint8_t* sampled[kSampledTokens] = {};
  if (many) {
#pragma unroll
    for (int i = 0; i < kSampledTokens; ++i) {
      sampled[i] = p.layer.code_pages[size_t(sequence) * p.layer.max_pages +
                                      SampledToken(i, begin, end) / kGpuPageTokens];
    }
  }
  __syncthreads();
  TurnQueries<kDim, Shape::kQueries>(transform, identity, p.scale, &s);
  KeyCodes<kBytes> codes[kSampledTokens];
  if (many) {
#pragma unroll
    for (int i = 0; i < kSampledTokens; ++i) {
      const int in_page = SampledToken(i, begin, end) % kGpuPageTokens;
      codes[i] = LoadCodes<kBytes>(sampled[i] + (size_t(head) * kGpuPageTokens + in_page) * kBytes);
    }
  }
  __syncthreads();
  StoreNats<kDim>(residual, queries, s, &arrays.searches[list]);
  // Neighbouring threads have entries of one sub-space, so many as it has or as a warp has.
  constexpr int kTogether = kBits == 8 ? 32 : 16;
  ForEntries<Shape>(centroids, s, [&](int, int m, int q, float score) {
    float low = score, high = score;
#pragma unroll
    for (int distance = kTogether / 2; distance > 0; distance /= 2) {
      low = fminf(low, __shfl_xor_sync(~0u, low, distance));
      high = fmaxf(high, __shfl_xor_sync(~0u, high, distance));
    }
    if (threadIdx.x % kTogether == 0) {
      atomicMin(&s.low[m][q], Ordered(low));
      atomicMax(&s.high[m][q], Ordered(high));
    }
  });
  __syncthreads();
  SetSteps<Shape::kSubspaces, kDim>(p, head, queries, &s);
  const float inverse_step = 1.0f / s.step;
  uint32_t* kept = arrays.tables + size_t(list) * Shape::kEntries * kWords;
  uint32_t word = 0;
  ForEntries<Shape>(centroids, s, [&](int e, int m, int q, float score) {
    const int entry = q < queries ? Quantised(score, FromOrdered(s.low[m][q]), inverse_step) : 0;
    word =
        q % kWordQueries == 0 ? uint32_t(entry) : word | uint32_t(entry) << (q % kWordQueries * 8);
    if (q % kWordQueries == kWordQueries - 1) {
      table[e * kWords + q / kWordQueries] = word;
      kept[e * kWords + q / kWordQueries] = word;
    }
  });
  uint32_t placed_02[kSampledTokens][kWords] = {}, placed_13[kSampledTokens][kWords] = {};
  if (p.codebooks.position_means != nullptr) {
    PlaceSample<kDim, kWords>(p, head, queries, begin, end, many, placed_02, placed_13, &s);
  }
  __syncthreads();
  const long long wanted_tokens =
      p.budget_ratio > 0 ? llround(p.budget_ratio * tokens) : p.budget_tokens;
  const int k = int(min(wanted_tokens, (long long)(min(n, p.max_selected))));
  const float wanted = float(kSample) * k / max(n, 1);
  // A threshold that is too high costs a second scan. With position means, tokens that are sampled
  // together lie alike, and what the sample finds scatters more.
  const float deviations = p.codebooks.position_means == nullptr ? 3 : 6;
  const int rank = int(wanted + deviations * sqrtf(wanted)) + 4;
  int least = 0;
  uint32_t offsets_02[kWords] = {}, offsets_13[kWords] = {};
  if (many && rank <= kSample) {
    uint32_t sums_02[kSampledTokens][kWords], sums_13[kSampledTokens][kWords];
#pragma unroll
    for (int i = 0; i < kSampledTokens; ++i) {
      SumEntries<kBits, kBytes, kWords>(uint32_t(__cvta_generic_to_shared(table)), codes[i],
                                        sums_02[i], sums_13[i]);
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        sums_02[i][j] += placed_02[i][j];
        sums_13[i][j] += placed_13[i][j];
      }
    }
    if (queries > 1) {
      EstimateLse<kWords>(sums_02, sums_13, queries, float(n) / kSample, &s);
      float base[Shape::kQueries], lse[Shape::kQueries];
      int offsets[Shape::kQueries];
#pragma unroll
      for (int q = 0; q < Shape::kQueries; ++q) base[q] = s.base[q], lse[q] = s.lse[q];
      SetOffsets(base, lse, queries, s.step, offsets);
      PackOffsets<kWords>(offsets, offsets_02, offsets_13);
    }
    int worth[kSampledTokens];
#pragma unroll
    for (int i = 0; i < kSampledTokens; ++i) {
      worth[i] = 0;
      for (int j = 0; j < kWords; ++j) {
        const uint32_t pair =
            __vmaxu2(__vadd2(sums_02[i][j], offsets_02[j]), __vadd2(sums_13[i][j], offsets_13[j]));
        worth[i] = max(worth[i], max(LowHalf(pair), HighHalf(pair)));
      }
    }
    least = FindLeast(worth, rank, &s);
  }
  if (threadIdx.x == 0) {
    Search& search = arrays.searches[list];
    search.begin = begin;
    search.end = end;
    search.k = k;
    search.least = least;
    search.arrivals = 0;
    search.step = s.step;
    for (int q = 0; q < queries; ++q) {
      search.base[q] = s.base[q];
      search.bound[q] = s.bound[q];
      search.largest_sum[q] = s.largest_sum[q];
    }
    for (int j = 0; j < kWords; ++j) {
      search.offsets_02[j] = offsets_02[j];
      search.offsets_13[j] = offsets_13[j];
    }
  }
}

template <typename Shape>
Status Launch(const SelectTokensParams& p, const SearchArrays& arrays,
              const AppendTokensParams* append, GpuStream stream) {
  const int heads = p.layer.batch * p.layer.kv_heads;
  const size_t products = arrays.page_blocks > 0 ? p.layer.kv_heads * p.group : 0;
  const size_t shared =
      std::max(size_t{4} * Shape::kWords * Shape::kEntries, products * sizeof(MeanProducts));
  auto* kernel = ScoreTablesKernel<Shape>;
  PQCACHE_RETURN_IF_ERROR(AllowSharedMemory(kernel, shared));
  const int blocks =
      arrays.lists + (append == nullptr ? 0 : heads) + arrays.page_blocks * p.layer.batch;
  return LaunchOverlapping("score tables", kernel, {dim3(blocks), kThreads, shared}, stream, p,
                           arrays, append == nullptr ? AppendTokensParams{} : *append);
}

}  // namespace

Status LaunchScoreTables(const SelectTokensParams& p, const SearchArrays& arrays,
                         const AppendTokensParams* append, GpuStream stream) {
  return DispatchCodes(p.codebooks.bits, p.layer.bytes_per_key, arrays.words,
                       [&](auto bits, auto bytes, auto words) {
                         return DispatchDim(p.layer.dim, [&](auto dim) {
                           using Shape = TableShape<dim(), bits(), bytes(), words()>;
                           return Launch<Shape>(p, arrays, append, stream);
                         });
                       });
}

}  // namespace pqcache::attention
