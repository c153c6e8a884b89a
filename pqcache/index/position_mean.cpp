#include "pqcache/index/position_mean.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "pqcache/base/check.h"
#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_math.h"

namespace pqcache {
namespace {

constexpr int kGroupBlocks = 64;  // whose scores are made together

constexpr double kLongestMean = 1e15;  // so that products with queries stay finite

// sums [kGroupBlocks] += factors [n] times turns [n, kGroupBlocks], n even.
PQCACHE_VECTOR_CLONES void AddTurns(const float* turns, int64_t n, const float* factors,
                                    float* sums) {
  for (int64_t i = 0; i < n; i += 2) {
    const float first = factors[i], second = factors[i + 1];
    const float* turn = turns + i * kGroupBlocks;
    for (int b = 0; b < kGroupBlocks; ++b) {
      sums[b] += first * turn[b] + second * turn[b + kGroupBlocks];
    }
  }
}

// phases [R/2, 2] turned further by `turn` [R/2, 2], in place.
void TurnPhases(std::span<const double> turn, std::vector<double>* phases) {
  for (size_t i = 0; i < turn.size(); i += 2) {
    const double c = (*phases)[i], s = (*phases)[i + 1];
    (*phases)[i] = c * turn[i] - s * turn[i + 1];
    (*phases)[i + 1] = s * turn[i] + c * turn[i + 1];
  }
}

}  // namespace

void TurnByPositions(std::span<const float> frequencies, double positions, float* x) {
  const size_t pairs = frequencies.size();
  for (size_t i = 0; i < pairs; ++i) {
    const double angle = positions * frequencies[i];
    const double cosine = std::cos(angle), sine = std::sin(angle);
    const double a = x[i], b = x[i + pairs];
    x[i] = static_cast<float>(a * cosine - b * sine);
    x[i + pairs] = static_cast<float>(b * cosine + a * sine);
  }
}

Result<PositionMean> PositionMean::Create(int dim, std::vector<float> mean,
                                          std::vector<float> frequencies) {
  if (std::ssize(mean) != dim) {
    return Status::InvalidArgument("position mean has " + std::to_string(mean.size()) +
                                   " numbers, expected " + std::to_string(dim));
  }
  if (frequencies.empty() || 2 * std::ssize(frequencies) > dim) {
    return Status::InvalidArgument("position mean has " + std::to_string(frequencies.size()) +
                                   " frequencies, expected 1 to " + std::to_string(dim / 2));
  }
  if (!AllFinite(mean.data(), std::ssize(mean)) ||
      !AllFinite(frequencies.data(), std::ssize(frequencies))) {
    return Status::InvalidArgument("position mean has numbers that are not finite");
  }
  PositionMean result;
  result.averaged_ = mean;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    // The average of the block's directions is in their middle, and shorter.
    const double half = 0.5 * frequencies[i];
    const double shrink = std::abs(std::sin(half)) < 1e-12
                              ? 1.0
                              : std::sin(half * kPositionBlock) / (kPositionBlock * std::sin(half));
    result.averaged_[i] *= static_cast<float>(shrink);
    result.averaged_[i + frequencies.size()] *= static_cast<float>(shrink);
  }
  double length = 0;
  for (const float x : mean) length += double{x} * x;
  if (length > kLongestMean * kLongestMean) {
    return Status::InvalidArgument("position mean is " + std::to_string(std::sqrt(length)) +
                                   " long, expected at most " + std::to_string(kLongestMean));
  }
  result.turns_.resize(2 * frequencies.size() * kGroupBlocks);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double block = double{frequencies[i]} * kPositionBlock;
    for (size_t b = 0; b < kGroupBlocks; ++b) {
      const double angle = block * static_cast<double>(b);
      result.turns_[i * kGroupBlocks + b] = static_cast<float>(std::cos(angle));
      result.turns_[(i + frequencies.size()) * kGroupBlocks + b] =
          static_cast<float>(std::sin(angle));
    }
    const double first = MiddleOfBlock(0) * frequencies[i], group = block * kGroupBlocks;
    result.first_phase_.insert(result.first_phase_.end(), {std::cos(first), std::sin(first)});
    result.group_turn_.insert(result.group_turn_.end(), {std::cos(group), std::sin(group)});
  }
  result.mean_ = std::move(mean);
  result.frequencies_ = std::move(frequencies);
  return result;
}

void PositionMean::OfBlock(int64_t block, int dim, float* key) const {
  if (empty()) {
    std::fill_n(key, dim, 0.0f);
    return;
  }
  PQCACHE_CHECK(dim == std::ssize(mean_), "one channel of the mean for each of a key");
  std::copy(averaged_.begin(), averaged_.end(), key);
  TurnByPositions(frequencies_, MiddleOfBlock(block), key);
}

// With (m, n) a pair of the mean key of a group's first block and (c, s) the turn of a block from
// it, <q, key> is the sum over pairs of c (q0 m + q1 n) + s (q1 m - q0 n). Groups begin at block 0,
// so that a block's score does not depend on `first`.
void PositionMean::Score(int g, const float* queries, int64_t first, int64_t count,
                         float* scores) const {
  const int64_t dim = std::ssize(mean_);
  const auto pairs = std::ssize(frequencies_);
  thread_local std::vector<double> phases;  // [R/2, 2] of a group's first block
  thread_local std::vector<float> factors;  // [R] of a query
  phases = first_phase_;
  thread_local std::vector<float> key;  // [R] of the mean key of a group's first block
  factors.resize(static_cast<size_t>(2 * pairs));
  key.resize(factors.size());
  for (int64_t begin = 0; begin < first + count; begin += kGroupBlocks) {
    if (begin > 0) TurnPhases(group_turn_, &phases);
    if (begin + kGroupBlocks <= first) continue;
    const int64_t last = std::min(begin + kGroupBlocks, first + count);
    for (int64_t i = 0; i < pairs; ++i) {
      const double c = phases[2 * i], s = phases[2 * i + 1];
      key[i] = static_cast<float>(averaged_[i] * c - averaged_[i + pairs] * s);
      key[i + pairs] = static_cast<float>(averaged_[i + pairs] * c + averaged_[i] * s);
    }
    for (int q = 0; q < g; ++q) {
      const float* query = queries + q * dim;
      for (int64_t i = 0; i < pairs; ++i) {
        factors[i] = query[i] * key[i] + query[i + pairs] * key[i + pairs];
        factors[i + pairs] = query[i + pairs] * key[i] - query[i] * key[i + pairs];
      }
      float rest = 0;
      for (int64_t d = 2 * pairs; d < dim; ++d) rest += query[d] * averaged_[d];
      float sums[kGroupBlocks];
      std::fill_n(sums, kGroupBlocks, rest);
      AddTurns(turns_.data(), 2 * pairs, factors.data(), sums);
      for (int64_t block = std::max(begin, first); block < last; ++block) {
        scores[(block - first) * g + q] = sums[block - begin];
      }
    }
  }
}

float PositionMean::Bound(const float* query) const {
  const size_t pairs = frequencies_.size();
  float bound = 0;
  for (size_t i = 0; i < pairs; ++i) {
    bound +=
        std::hypot(averaged_[i], averaged_[i + pairs]) * std::hypot(query[i], query[i + pairs]);
  }
  for (size_t i = 2 * pairs; i < mean_.size(); ++i) bound += std::abs(averaged_[i] * query[i]);
  return bound;
}

}  // namespace pqcache
