#include "pqcache/index/position_mean.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/base/check.h"
#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_math.h"

namespace pqcache {
namespace {

// Blocks that are scored from one pair of exact angles on; what rounding adds up to stays below
// 1e-5 of a pair's length.
constexpr int64_t kTurns = 64;

constexpr double kLongestMean = 1e15;  // so that products with queries stay finite

// (x[i], y[i]) turned by the angle of (cosines[i], sines[i]).
PQCACHE_VECTOR_CLONES void TurnPairs(const float* cosines, const float* sines, int n, float* x,
                                     float* y) {
  for (int i = 0; i < n; ++i) {
    const float a = x[i], b = y[i];
    x[i] = a * cosines[i] - b * sines[i];
    y[i] = b * cosines[i] + a * sines[i];
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

void PositionMean::Score(int g, const float* queries, int64_t first, int64_t count,
                         float* scores) const {
  const int64_t dim = std::ssize(mean_);
  const auto pairs = static_cast<int>(frequencies_.size());
  thread_local AlignedBuffer<float> scratch;  // cosines and sines [R/2] of a block's turn, key [D]
  scratch.Resize(static_cast<size_t>(2 * pairs + dim));
  float* cosines = scratch.data();
  float* sines = cosines + pairs;
  float* key = sines + pairs;
  for (int i = 0; i < pairs; ++i) {
    const double angle = double{frequencies_[static_cast<size_t>(i)]} * kPositionBlock;
    cosines[i] = static_cast<float>(std::cos(angle));
    sines[i] = static_cast<float>(std::sin(angle));
  }
  // Begun where the exact angles are, so that a block's score does not depend on `first`.
  for (int64_t block = first / kTurns * kTurns; block < first + count; ++block) {
    if (block % kTurns == 0) {
      OfBlock(block, static_cast<int>(dim), key);
    } else {
      TurnPairs(cosines, sines, pairs, key, key + pairs);
    }
    if (block >= first) DotRows(key, queries, dim, g, dim, 1.0f, scores + (block - first) * g);
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
