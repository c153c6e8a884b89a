#include "pqcache/base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace pqcache {
namespace {

// Trained codebooks and recorded measurements depend on these numbers; they must never change.
// They are those of xoshiro256** seeded by splitmix64, computed by other means.
TEST(Random, StreamIsFixed) {
  const struct {
    uint64_t seed;
    uint64_t first[5];
  } rows[] = {
      {0,
       {0x99ec5f36cb75f2b4, 0xbf6e1f784956452a, 0x1a5f849d4933e6e0, 0x6aa594f1262d2d2c,
        0xbba5ad4a1f842e59}},
      {1,
       {0xb3f2af6d0fc710c5, 0x853b559647364cea, 0x92f89756082a4514, 0x642e1c7bc266a3a7,
        0xb27a48e29a233673}},
      {~uint64_t{0},
       {0x8f5520d52a7ead08, 0xc476a018caa1802d, 0x81de31c0d260469e, 0xbf658d7e065f3c2f,
        0x913593fda1bca32a}},
  };
  for (const auto& row : rows) {
    Random random(row.seed);
    for (const uint64_t expected : row.first) EXPECT_EQ(random.Next(), expected);
  }
  Random below(0);
  for (const uint64_t expected : {601, 747, 103, 416, 732}) EXPECT_EQ(below.Below(1000), expected);
  Random uniform(0);
  for (const double expected : {0.6012629994179048, 0.7477740925472398, 0.10301998939503632}) {
    EXPECT_EQ(uniform.Uniform(), expected);
  }
}

// The logarithm and cosine may differ in their last place between libraries.
TEST(Random, NormalStreamIsFixed) {
  Random random(42);
  for (const double expected :
       {-0.303263064678738, 1.3438117634372806, 0.3834617912676943, 0.9369624250258953}) {
    EXPECT_NEAR(random.Normal(), expected, 1e-6);
  }
}

TEST(MixSeed, IsFixed) {
  EXPECT_EQ(MixSeed(7, 0), 0x63cbe1e459320dd7u);
  EXPECT_EQ(MixSeed(7, 1), 0x044c3cd7f43c661cu);
  EXPECT_EQ(MixSeed(7, 2), 0xe6984080bab12a02u);
}

TEST(MixSeed, NeighbouringSeedsAndStreamsDiffer) {
  std::vector<uint64_t> mixed;
  for (uint64_t seed = 0; seed < 64; ++seed) {
    for (uint64_t stream = 0; stream < 64; ++stream) mixed.push_back(MixSeed(seed, stream));
  }
  std::sort(mixed.begin(), mixed.end());
  EXPECT_EQ(std::adjacent_find(mixed.begin(), mixed.end()), mixed.end());
}

TEST(Random, BelowStaysInRangeAndCoversIt) {
  Random random(3);
  for (const uint64_t n : {1, 2, 3, 7, 256}) {
    std::vector<int> seen(n);
    for (int i = 0; i < 1000 * static_cast<int>(n); ++i) {
      const uint64_t v = random.Below(n);
      ASSERT_LT(v, n);
      ++seen[v];
    }
    // 1000 expected in each; six standard deviations.
    for (const int count : seen) EXPECT_NEAR(count, 1000, n == 1 ? 0 : 190) << n;
  }
  bool high_half = false;
  for (int i = 0; i < 100; ++i) {
    const uint64_t v = random.Below(~uint64_t{0});
    ASSERT_LT(v, ~uint64_t{0});
    high_half = high_half || v > (uint64_t{1} << 63);
  }
  EXPECT_TRUE(high_half);
}

TEST(Random, UniformAndNormalHaveTheirMoments) {
  constexpr int kCount = 100000;
  Random random(4);
  double uniform_sum = 0, sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < kCount; ++i) {
    const double u = random.Uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    uniform_sum += u;
    const double x = random.Normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  EXPECT_NEAR(uniform_sum / kCount, 0.5, 0.006);
  EXPECT_NEAR(sum / kCount, 0, 0.02);
  EXPECT_NEAR(squares / kCount, 1, 0.03);
  EXPECT_NEAR(fourth / kCount, 3, 0.25);
}

}  // namespace
}  // namespace pqcache
