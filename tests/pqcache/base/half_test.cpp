#include "pqcache/base/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "pqcache/base/random.h"

namespace pqcache {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

TEST(BFloat16, EveryValueRoundTrips) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const auto bits = static_cast<uint16_t>(h);
    const float f = BFloat16ToFloat(bits);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(f)))) << h;
      EXPECT_EQ(FloatToBFloat16(f) >> 15, h >> 15) << h;
    } else {
      EXPECT_EQ(FloatToBFloat16(f), bits) << h;
    }
  }
}

// Midpoints between neighbours and the floats just beside them, over all finite values.
TEST(BFloat16, RoundsToNearestWithTiesToEven) {
  for (uint32_t h = 0; h < 0x7f7f; ++h) {
    for (const uint32_t sign : {0u, 0x80000000u}) {
      const uint32_t low = sign | (h << 16);
      const uint32_t expected_tie = (low >> 16) + (h & 1);
      EXPECT_EQ(FloatToBFloat16(FromBits(low + 0x7fff)), low >> 16);
      EXPECT_EQ(FloatToBFloat16(FromBits(low + 0x8000)), expected_tie);
      EXPECT_EQ(FloatToBFloat16(FromBits(low + 0x8001)), (low >> 16) + 1);
    }
  }
}

TEST(BFloat16, EdgesOfTheRange) {
  EXPECT_EQ(FloatToBFloat16(kInfinity), 0x7f80);
  EXPECT_EQ(FloatToBFloat16(-kInfinity), 0xff80);
  EXPECT_EQ(FloatToBFloat16(std::numeric_limits<float>::max()), 0x7f80);  // rounds up to infinity
  EXPECT_EQ(FloatToBFloat16(FromBits(0x7f7f7fff)), 0x7f7f);
  EXPECT_EQ(FloatToBFloat16(-0.0f), 0x8000);
  // A NaN whose payload lies in the dropped bits must not become an infinity.
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(FromBits(0x7f800001)))));
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(FromBits(0xffffffff)))));
}

TEST(BFloat16, ErrorIsAtMostHalfAUnit) {
  Random random(1);
  for (int i = 0; i < 10000; ++i) {
    const float f = random.Normal() * std::ldexp(1.0f, static_cast<int>(random.Below(200)) - 100);
    EXPECT_LE(std::abs(BFloat16ToFloat(FloatToBFloat16(f)) - f), std::abs(f) * 0x1p-8f) << f;
  }
}

// The definition of IEEE 754 binary16, term by term.
double HalfByDefinition(uint32_t h) {
  const double sign = (h & 0x8000) != 0 ? -1 : 1;
  const int exponent = static_cast<int>((h >> 10) & 31);
  const int mantissa = static_cast<int>(h & 1023);
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Half, EveryValueMatchesTheDefinition) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = HalfToFloat(static_cast<uint16_t>(h));
    EXPECT_EQ(std::signbit(f), (h & 0x8000) != 0) << h;
    if ((h & 0x7c00) != 0x7c00) {
      EXPECT_EQ(double{f}, HalfByDefinition(h)) << h;
    } else if ((h & 0x3ff) != 0) {
      EXPECT_TRUE(std::isnan(f)) << h;
    } else {
      EXPECT_EQ(std::abs(f), kInfinity) << h;
    }
  }
}

}  // namespace
}  // namespace pqcache
