#pragma once

// What the keys of a head are on average at their position, which codes need not say. The rotary
// embedding turns the pair (k[i], k[i + R/2]) of a key at position p by the angle p * f[i]. Turned
// back to position 0, the keys of a head have a mean that is far from zero in many pairs, so at
// every position there is a mean key that position and head alone decide. Codes are of what is left
// when it is subtracted; scores add its inner product with the query.
//
// KVQuant (Hooper et al., 2024) quantises keys before the embedding for the same reason; here keys
// are coded as they are cached, and the mean is turned along.
//
// It is taken once for every block of kPositionBlock positions, as the average over the block:
// pairs that turn fast average to nothing and are left to the codes.
//
// Immutable, shared by any number of threads.

#include <cstdint>
#include <span>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache {

inline constexpr int64_t kPositionBlock = 64;

// Where the average over a block points.
inline double MiddleOfBlock(int64_t block) {
  return static_cast<double>(block * kPositionBlock) + 0.5 * (kPositionBlock - 1);
}

class PositionMean {
 public:
  // No mean: every key is what it is.
  PositionMean() = default;
  // mean [D] of keys turned back to position 0; frequencies [R/2] in radians per position, 0 < R <=
  // D; channels from R on are not turned. Checks sizes and that every number is finite.
  static Result<PositionMean> Create(int dim, std::vector<float> mean,
                                     std::vector<float> frequencies);

  bool empty() const { return mean_.empty(); }
  std::span<const float> mean() const { return mean_; }
  std::span<const float> frequencies() const { return frequencies_; }
  // [D] mean() as the average over a block leaves it, not turned yet.
  std::span<const float> averaged() const { return averaged_; }

  // Mean key [D] of positions [kPositionBlock * block, kPositionBlock * (block + 1)); zeros if
  // empty.
  void OfBlock(int64_t block, int dim, float* key) const;

  // Needs a mean. scores [count, G] = <query g, mean key of block first + i>, queries [G, D].
  void Score(int g, const float* queries, int64_t first, int64_t count, float* scores) const;
  // No score of this query [D] is larger than this, nor smaller than minus this, but for rounding.
  float Bound(const float* query) const;

 private:
  std::vector<float> mean_;         // [D]
  std::vector<float> frequencies_;  // [R/2]
  std::vector<float> averaged_;     // [D] the mean as the average over a block leaves it
  // For scores, which are made for groups of blocks: how far each block of a group is turned from
  // the first [R, blocks of a group], cosines of all pairs, then sines; and a group from the one
  // before, and the first one [R/2, 2].
  std::vector<float> turns_;
  std::vector<double> group_turn_, first_phase_;
};

// The mean keys of positions that come in rising order, each made once.
class BlockMeans {
 public:
  // `mean` must outlive it.
  BlockMeans(const PositionMean& mean, int dim) : mean_(mean), key_(static_cast<size_t>(dim)) {}

  // [D], valid until the next call.
  const std::vector<float>& At(int64_t position) {
    if (const int64_t block = position / kPositionBlock; block != block_) {
      mean_.OfBlock(block, static_cast<int>(key_.size()), key_.data());
      block_ = block;
    }
    return key_;
  }

 private:
  const PositionMean& mean_;
  int64_t block_ = -1;
  std::vector<float> key_;
};

// x [D] turned by `positions` positions, in place: pairs (x[i], x[i + R/2]).
void TurnByPositions(std::span<const float> frequencies, double positions, float* x);

}  // namespace pqcache
