#include "pqcache/index/residual_norms.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "pqcache/base/check.h"

namespace pqcache {
namespace {

// Code c stands for 2^((c - 128) / 8), the last one for anything larger: 9 % apart, from 1.5e-5 to
// 56,000.
constexpr int kStepsOfOctave = 8;
constexpr int kCodeOfOne = 128;
constexpr int kUnbounded = 255;

double DistanceOf(int code) {
  if (code == kUnbounded) return std::numeric_limits<double>::infinity();
  return std::exp2(static_cast<double>(code - kCodeOfOne) / kStepsOfOctave);
}

uint8_t CodeOf(float distance) {
  if (distance <= 0) return 0;
  if (!std::isfinite(distance)) return kUnbounded;
  const double code = std::ceil(kStepsOfOctave * std::log2(double{distance})) + kCodeOfOne;
  return static_cast<uint8_t>(std::clamp<double>(code, 0, kUnbounded));
}

}  // namespace

void ResidualNorms::Append(const PqIndex& index, int64_t n, const float* keys) {
  PQCACHE_CHECK(size() + n <= index.size(), "rows that have codes");
  std::vector<uint8_t> codes(static_cast<size_t>(n) * index.codebook().shape().subspaces);
  std::vector<float> distances(static_cast<size_t>(n));
  index.CopyCodes(size(), size() + n, codes.data());
  index.codebook().Distances(size(), n, keys, codes.data(), distances.data());
  for (const float distance : distances) codes_.push_back(CodeOf(distance));
}

void ResidualNorms::Bounds(const PqIndex& index, const float* query, float scale, int64_t begin,
                           int64_t end, const float* scores, float* bounds) const {
  PQCACHE_CHECK(begin >= 0 && end <= size(), "rows whose keys were appended");
  const HeadCodebook::ScoreError error = index.codebook().ScoreErrorOf(query);
  std::array<float, kUnbounded + 1> widths;
  for (int code = 0; code <= kUnbounded; ++code) {
    widths[static_cast<size_t>(code)] =
        scale * (error.slope * static_cast<float>(DistanceOf(code)) + error.rounding);
  }
  for (int64_t i = 0; i < end - begin; ++i) {
    bounds[i] = scores[i] + widths[codes_[static_cast<size_t>(begin + i)]];
  }
}

}  // namespace pqcache
