#include "attention/model/rope.h"

#include <cmath>
#include <numbers>

#include "pqcache/base/check.h"

namespace pqcache::attention {
namespace {

// The scaling of the Llama 3.1 release: waves longer than the original context / low_freq_factor
// are slowed by `factor`, those shorter than it / high_freq_factor stay, and between the two the
// frequency is interpolated linearly in (original context / wavelength).
double ScaleLlama3(double frequency, const RopeSpec& spec) {
  const double waves =
      static_cast<double>(spec.original_max_positions) * frequency / (2.0 * std::numbers::pi);
  if (waves < spec.low_freq_factor) return frequency / spec.factor;
  if (waves > spec.high_freq_factor) return frequency;
  const double keep =
      (waves - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor);
  return (1.0 - keep) * frequency / spec.factor + keep * frequency;
}

void RotatePairs(const float* cosines, const float* sines, int half, float* x) {
  float* y = x + half;
  for (int i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = y[i];
    x[i] = a * cosines[i] - b * sines[i];
    y[i] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace

Rope::Rope(const RopeSpec& spec) : rotary_dim_(spec.rotary_dim) {
  PQCACHE_CHECK(rotary_dim_ > 0 && rotary_dim_ % 2 == 0, "rotary_dim must be even and positive");
  for (int i = 0; i < rotary_dim_ / 2; ++i) {
    double frequency = std::pow(spec.theta, -2.0 * i / rotary_dim_);
    if (spec.kind == RopeSpec::Kind::kLinear) frequency /= spec.factor;
    if (spec.kind == RopeSpec::Kind::kLlama3) frequency = ScaleLlama3(frequency, spec);
    frequencies_.push_back(frequency);
  }
}

void Rope::Apply(int64_t n, const int64_t* positions, int heads, int dim, float* x) const {
  PQCACHE_CHECK(dim >= rotary_dim_, "a head has fewer channels than rotary_dim");
  const int half = rotary_dim_ / 2;
  std::vector<float> cosines(frequencies_.size());
  std::vector<float> sines(frequencies_.size());
  for (int64_t row = 0; row < n; ++row) {
    for (size_t i = 0; i < frequencies_.size(); ++i) {
      const double angle = static_cast<double>(positions[row]) * frequencies_[i];
      cosines[i] = static_cast<float>(std::cos(angle));
      sines[i] = static_cast<float>(std::sin(angle));
    }
    for (int head = 0; head < heads; ++head, x += dim) {
      RotatePairs(cosines.data(), sines.data(), half, x);
    }
  }
}

}  // namespace pqcache::attention
