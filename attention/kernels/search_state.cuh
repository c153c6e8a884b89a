#pragma once

// What the two kernels of a selection hand on: score_tables.cu makes the tables and the first
// threshold, scan_codes.cu collects and ranks. One search for each list.

#include <cstdint>

#include "attention/kernels/fast_exp2.cuh"
#include "attention/kernels/select_tokens.h"

namespace pqcache::attention {

constexpr int kWordQueries = 4;            // queries whose entries share a word of a table
constexpr int kMaxQueries = kMaxGpuGroup;  // of a list
constexpr int kMaxTableWords = kMaxQueries / kWordQueries;
constexpr int kMaxOffset = 32767;  // table steps
constexpr int kMaxBlocks = 32;     // that share a list
constexpr int kPagesAtOnce = 128;  // whose scores a block of score_tables.cu makes

// Of one list. A query's score of a sum is base + step * sum; what a page's place adds is in sums.
struct Search {
  int begin, end, k;     // candidates, and how many are wanted
  int least;             // worth from which candidates are collected
  unsigned arrivals;     // of its blocks at the meetings of a scan
  unsigned blocks_done;  // of the scan that runs
  float step;
  float base[kMaxQueries];
  float bound[kMaxQueries];      // of what the place of a page adds
  float nats[kMaxQueries];       // HeadCodebook::ScoreNats
  int largest_sum[kMaxQueries];  // about the largest that there is: see Exponentials
  // worth = max over queries of sum + offset. Two queries of a word each: the first and third, the
  // second and fourth.
  uint32_t offsets_02[kMaxTableWords], offsets_13[kMaxTableWords];
};

// A candidate that a scan has found: its position and, two queries' each as the offsets, its sums.
// Filled up to whole 16 bytes.
template <int kWords>
struct alignas(16) Found {
  int position;
  uint32_t sums_02[kWords], sums_13[kWords];
};

// The workspace. A candidate that warp w of a list's scan finds is written behind those that it has
// found, beginning at w times the tokens of a warp: every one has room.
struct SearchArrays {
  Search* searches;     // [lists]
  uint32_t* tables;     // [lists, M * K, words]
  int* found_counts;    // [lists, kMaxBlocks]
  float* page_scores;   // [lists, P, queries] what the place of a page adds, with position means
  float* exponentials;  // [lists, kMaxBlocks, kMaxQueries] sums of a block
  float* shares;        // [lists, kMaxBlocks, kMaxQueries] of what a block has selected
  char* found;          // [lists, capacity] of Found
  uint32_t* keys;       // [lists, capacity] ranks, in order of position
  int lists, words, capacity, blocks;
  int page_blocks;  // that share the page scores of a sequence; 0: there are none
};

__device__ inline int LowHalf(uint32_t pair) { return int(pair & 0xffff); }
__device__ inline int HighHalf(uint32_t pair) { return int(pair >> 16); }

// Sum of query q, of a candidate's pairs.
template <int kWords>
__device__ int SumOf(const uint32_t (&sums_02)[kWords], const uint32_t (&sums_13)[kWords], int q) {
  const uint32_t pair = q % 2 == 0 ? sums_02[q / 4] : sums_13[q / 4];
  return q % 4 < 2 ? LowHalf(pair) : HighHalf(pair);
}

// Sums of exponentials of scores, of all queries of a list. They are taken of
// (sum - largest_sum) * step * log2(e) + kExponent, so that a million of them cannot overflow and
// scores far below the largest possible still count.
template <int kWords>
struct Exponentials {
  static constexpr float kExponent = 100;
  float factor;
  float shifts[kWordQueries * kWords];
  float sums[kWordQueries * kWords] = {};

  __device__ Exponentials(float step, const int* largest_sums, int queries) {
    factor = step * kLog2E;
#pragma unroll
    for (int q = 0; q < kWordQueries * kWords; ++q) {
      shifts[q] = q < queries ? kExponent - factor * float(largest_sums[q]) : 0;
    }
  }
  __device__ void Add(const uint32_t (&sums_02)[kWords], const uint32_t (&sums_13)[kWords]) {
    constexpr uint32_t kTwoTo23 = 0x4b000000;
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      AddOne(4 * j, __byte_perm(sums_02[j], kTwoTo23, 0x7610));
      AddOne(4 * j + 1, __byte_perm(sums_13[j], kTwoTo23, 0x7610));
      AddOne(4 * j + 2, __byte_perm(sums_02[j], kTwoTo23, 0x7632));
      AddOne(4 * j + 3, __byte_perm(sums_13[j], kTwoTo23, 0x7632));
    }
  }

 private:
  __device__ void AddOne(int q, uint32_t bits) {
    const float sum = __uint_as_float(bits) - 8388608.0f;  // bits are those of 2^23 + sum
    sums[q] += FastExp2(fmaf(sum, factor, shifts[q]));
  }
};

// Log-sum-exp of scores from their exponentials' sum.
__device__ inline float LseOf(float exponentials, float base, float step, int largest_sum) {
  const float log2 = log2f(fmaxf(exponentials, 1e-38f)) - Exponentials<1>::kExponent;
  return base + step * float(largest_sum) + log2 / kLog2E;
}

// Offsets of the queries' sums, in table steps: of base - lse above the smallest of them. A list of
// one query has none.
template <int kQueries>
__device__ void SetOffsets(const float (&base)[kQueries], const float (&lse)[kQueries], int queries,
                           float step, int (&offsets)[kQueries]) {
  float origin = INFINITY;
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    if (q < queries) origin = fminf(origin, base[q] - lse[q]);
  }
#pragma unroll
  for (int q = 0; q < kQueries; ++q) {
    const float steps = rintf((base[q] - lse[q] - origin) / step);
    offsets[q] = q < queries && queries > 1 ? int(fminf(steps, float(kMaxOffset))) : 0;
  }
}

// As Search has them, two queries of a word each.
template <int kWords>
__device__ void PackOffsets(const int (&offsets)[kWordQueries * kWords],
                            uint32_t (&offsets_02)[kWords], uint32_t (&offsets_13)[kWords]) {
#pragma unroll
  for (int j = 0; j < kWords; ++j) {
    const int* of_word = offsets + kWordQueries * j;
    offsets_02[j] = uint32_t(of_word[0]) | uint32_t(of_word[2]) << 16;
    offsets_13[j] = uint32_t(of_word[1]) | uint32_t(of_word[3]) << 16;
  }
}

}  // namespace pqcache::attention
