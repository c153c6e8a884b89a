#include "pqcache/base/vector_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "pqcache/base/half.h"
#include "tests/support/random_data.h"
#include "tests/support/tolerances.h"

namespace pqcache {
namespace {

using testing::kAwkwardSizes;
using testing::RandomNormals;
using testing::Tolerance;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct ExactDot {
  double sum = 0;
  double magnitude = 0;
};

ExactDot DotInDouble(const float* a, const float* b, int64_t n) {
  ExactDot dot;
  for (int64_t i = 0; i < n; ++i) {
    dot.sum += double{a[i]} * b[i];
    dot.magnitude += std::abs(double{a[i]} * b[i]);
  }
  return dot;
}

// The order of additions that vector_math.h promises, written without vectors.
float DotInLanes(const float* a, const float* b, int64_t n) {
  float lanes[16] = {};
  const int64_t whole = n / 16 * 16;
  for (int64_t i = 0; i < whole; ++i) lanes[i % 16] += a[i] * b[i];
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  float sum = lanes[0];
  for (int64_t i = whole; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

TEST(Dot, MatchesDoubleForAwkwardSizes) {
  for (const int64_t n : kAwkwardSizes) {
    const std::vector<float> a = RandomNormals(n, 1);
    const std::vector<float> b = RandomNormals(n, 2);
    const ExactDot exact = DotInDouble(a.data(), b.data(), n);
    EXPECT_NEAR(Dot(a.data(), b.data(), n), exact.sum, Tolerance(DType::kF32, exact.magnitude));
  }
}

TEST(Dot, GivesTheSameBitsOnEveryInstructionSet) {
  for (const int64_t n : kAwkwardSizes) {
    const std::vector<float> a = RandomNormals(n + 1, 3, 1e3f);
    const std::vector<float> b = RandomNormals(n + 1, 4);
    for (const int64_t shift : {0, 1}) {  // also when memory is not aligned
      EXPECT_EQ(std::bit_cast<uint32_t>(Dot(a.data() + shift, b.data() + shift, n)),
                std::bit_cast<uint32_t>(DotInLanes(a.data() + shift, b.data() + shift, n)))
          << n;
    }
  }
}

TEST(DotRows, ScoresRowsWithAStride) {
  for (const int64_t n : {1, 15, 16, 17, 80, 128}) {
    for (const int64_t gap : {0, 3}) {
      const int64_t stride = n + gap;
      const int64_t count = 33;
      const std::vector<float> query = RandomNormals(n, 5);
      const std::vector<float> rows = RandomNormals(stride * count, 6);
      std::vector<float> scores(count + 1, -7.0f);
      DotRows(query.data(), rows.data(), stride, count, n, 0.125f, scores.data());
      for (int64_t r = 0; r < count; ++r) {
        const ExactDot exact = DotInDouble(query.data(), &rows[r * stride], n);
        EXPECT_NEAR(scores[r], 0.125 * exact.sum, Tolerance(DType::kF32, 0.125 * exact.magnitude));
      }
      EXPECT_EQ(scores[count], -7.0f);  // nothing is written behind the end
    }
  }
}

TEST(AddScaled, MatchesDoubleAndStaysInside) {
  for (const int64_t n : kAwkwardSizes) {
    const std::vector<float> x = RandomNormals(n, 7);
    const std::vector<float> before = RandomNormals(n + 1, 8);
    std::vector<float> y = before;
    AddScaled(-1.7f, x.data(), n, y.data());
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(y[i], before[i] + -1.7f * x[i]);
    }
    EXPECT_EQ(y[n], before[n]);
  }
}

TEST(ExpInPlace, KeepsItsErrorBound) {
  constexpr int64_t kCount = 500001;
  std::vector<float> x(kCount);
  for (int64_t i = 0; i < kCount; ++i) x[i] = -87.0f + 175.0f * static_cast<float>(i) / kCount;
  const std::vector<float> before = x;
  ExpInPlace(x.data(), kCount, 0);
  double worst = 0;
  for (int64_t i = 0; i < kCount; ++i) {
    const double exact = std::exp(double{before[i]});
    worst = std::max(worst, std::abs(x[i] - exact) / exact);
  }
  EXPECT_LT(worst, 3e-7);
  EXPECT_GT(worst, 1e-8);  // it is a float after all: guards the test itself
}

TEST(ExpInPlace, ShiftsAndSumsForAwkwardSizes) {
  for (const int64_t n : kAwkwardSizes) {
    const std::vector<float> logits = RandomNormals(n, 9, 5);
    std::vector<float> x = logits;
    x.push_back(123.0f);
    const float shift = MaxOf(logits.data(), n);
    const float sum = ExpInPlace(x.data(), n, n == 0 ? 0 : shift);
    double exact = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double term = std::exp(double{logits[i] - shift});
      EXPECT_NEAR(x[i], term, 3e-7 * term);
      exact += term;
    }
    EXPECT_NEAR(sum, exact, Tolerance(DType::kF32, exact));
    EXPECT_EQ(x[n], 123.0f);
  }
}

TEST(ExpInPlace, EdgesOfTheRange) {
  // Each value once in the vector loop and once in the remainder.
  for (const int64_t position : {3, 17}) {
    const auto exp_of = [&](float value) {
      std::vector<float> x(18, 0.0f);
      x[position] = value;
      const float sum = ExpInPlace(x.data(), 18, 0);
      if (!std::isnan(value)) {
        EXPECT_NEAR(sum, 17.0 + x[position], 1e-6 * (17.0 + x[position]));
      } else {
        EXPECT_TRUE(std::isnan(sum));
      }
      return x[position];
    };
    EXPECT_EQ(exp_of(0.0f), 1.0f);
    EXPECT_EQ(exp_of(-0.0f), 1.0f);
    EXPECT_EQ(exp_of(-kInfinity), 0.0f);
    EXPECT_EQ(exp_of(-1e30f), 0.0f);
    EXPECT_EQ(exp_of(std::nextafter(-87.0f, -88.0f)), 0.0f);
    EXPECT_GT(exp_of(-87.0f), 1e-38f);
    // Arguments above 88 count as 88: finite, so that one outlier does not spoil a sum.
    EXPECT_EQ(exp_of(89.0f), exp_of(88.0f));
    EXPECT_EQ(exp_of(kInfinity), exp_of(88.0f));
    EXPECT_TRUE(std::isfinite(exp_of(88.0f)));
    EXPECT_TRUE(std::isnan(exp_of(kNan)));
    EXPECT_TRUE(std::isnan(exp_of(-kNan)));
  }
}

TEST(MaxOf, MatchesTheStandardLibrary) {
  for (const int64_t n : kAwkwardSizes) {
    std::vector<float> x = RandomNormals(n, 10);
    for (float& v : x) v -= 100;  // all negative, so that a zero start would show
    if (n == 0) {
      EXPECT_EQ(MaxOf(x.data(), n), -kInfinity);
      EXPECT_EQ(MinOf(x.data(), n), kInfinity);
      continue;
    }
    EXPECT_EQ(MaxOf(x.data(), n), *std::max_element(x.begin(), x.end()));
    for (const int64_t spot : {int64_t{0}, n / 2, n - 1}) {
      std::vector<float> spiked = x;
      spiked[spot] = 5;
      EXPECT_EQ(MaxOf(spiked.data(), n), 5.0f) << n << " " << spot;
      for (float& v : spiked) v = -v;
      EXPECT_EQ(MinOf(spiked.data(), n), -5.0f) << n << " " << spot;
    }
  }
}

TEST(MaxOf, IgnoresNanAndKnowsInfinities) {
  for (const int64_t n : {1, 16, 17, 40}) {
    std::vector<float> x(static_cast<size_t>(n), kNan);
    EXPECT_EQ(MaxOf(x.data(), n), -kInfinity);
    x[n / 2] = -3;
    EXPECT_EQ(MaxOf(x.data(), n), -3.0f);
    x[n - 1] = kInfinity;
    EXPECT_EQ(MaxOf(x.data(), n), kInfinity);
  }
}

TEST(AllFinite, FindsOneBadNumberAnywhere) {
  for (const int64_t n : kAwkwardSizes) {
    std::vector<float> x = RandomNormals(n, 11);
    EXPECT_TRUE(AllFinite(x.data(), n));
    for (int64_t i = 0; i < n; i += n < 100 ? 1 : 61) {
      for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
        const float good = x[i];
        x[i] = bad;
        EXPECT_FALSE(AllFinite(x.data(), n)) << n << " " << i;
        x[i] = good;
      }
    }
  }
  const float edges[] = {std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest(),
                         std::numeric_limits<float>::denorm_min(), -0.0f};
  EXPECT_TRUE(AllFinite(edges, 4));
}

TEST(BFloat16ToFloats, ConvertsEveryValue) {
  std::vector<uint16_t> bits(65536);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> out(bits.size());
  BFloat16ToFloats(bits.data(), std::ssize(bits), out.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(BFloat16ToFloat(bits[i])));
  }
}

}  // namespace
}  // namespace pqcache
