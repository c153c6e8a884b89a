#include "attention/exact_proof.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "pqcache/base/random.h"

namespace pqcache::attention {
namespace {

constexpr float kFound = -std::numeric_limits<float>::infinity();
constexpr int64_t kAny = 1000;

std::vector<int64_t> Doubtful(const std::vector<float>& bounds, const std::vector<float>& exact,
                              int64_t k, int64_t most = kAny) {
  std::vector<int64_t> doubtful = {-1};
  FindDoubtful(bounds, exact, k, most, &doubtful);
  return doubtful;
}

TEST(FindDoubtful, IsWhatReachesTheLastOfTheBest) {
  const std::vector<float> exact = {5, 3, 4, 1}, bounds = {kFound, 3.5f, 2, kFound, 4, 9};
  EXPECT_EQ(Doubtful(bounds, exact, 1), (std::vector<int64_t>{5}));
  EXPECT_EQ(Doubtful(bounds, exact, 2), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(Doubtful(bounds, exact, 3), (std::vector<int64_t>{1, 4, 5}));
  EXPECT_EQ(Doubtful(bounds, exact, 4), (std::vector<int64_t>{1, 2, 4, 5}));
  EXPECT_EQ(Doubtful(bounds, exact, 4, 2), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(Doubtful(bounds, exact, 4, 0), (std::vector<int64_t>{}));
  EXPECT_EQ(Doubtful({kFound, kFound}, {1, 2}, 2), (std::vector<int64_t>{}));
}

int64_t Proven(const std::vector<float>& bounds, const std::vector<float>& exact, int64_t k) {
  return CountProven(bounds, exact, k);
}

TEST(CountProven, IsWhatFewerThanKCanSurpass) {
  const std::vector<float> exact = {1, 5, 3, 4};  // best first: 5 4 3 1
  EXPECT_EQ(Proven({}, exact, 3), 3);
  EXPECT_EQ(Proven({2, kFound}, exact, 3), 3);
  EXPECT_EQ(Proven({3.5f}, exact, 3), 2);  // the third may be surpassed once
  EXPECT_EQ(Proven({4.5f}, exact, 3), 2);  // two of them, of three places
  EXPECT_EQ(Proven({9}, exact, 3), 2);     // all, and two places are left for them
  EXPECT_EQ(Proven({9, 9}, exact, 3), 1);
  EXPECT_EQ(Proven({9, 9, 9}, exact, 3), 0);
  EXPECT_EQ(Proven({3.5f, 3.5f, 3.5f}, exact, 3), 2);
  EXPECT_EQ(Proven({5}, exact, 1), 0);  // a bound may be met
  EXPECT_EQ(Proven({}, {}, 0), 0);
}

// Whatever the exact logits below the bounds are, what is proven is among the best.
TEST(CountProven, HoldsForEveryAssignmentBelowTheBounds) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> exact(6), bounds(8);
    for (float& x : exact) x = static_cast<float>(random.Below(12));
    for (float& x : bounds) x = static_cast<float>(random.Below(12));
    const auto k = static_cast<int64_t>(1 + random.Below(6));
    const int64_t proven = CountProven(bounds, exact, k);
    std::sort(exact.rbegin(), exact.rend());
    // The worst case: every bound is met, and counts as larger than an equal exact logit.
    int64_t expected = 0;
    for (int64_t i = 0; i < k; ++i) {
      const auto above = std::count_if(bounds.begin(), bounds.end(),
                                       [&](float bound) { return bound >= exact[i]; });
      if (i + above < k) expected = i + 1;
    }
    EXPECT_EQ(proven, expected);
  }
}

}  // namespace
}  // namespace pqcache::attention
