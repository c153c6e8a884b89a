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
                              int64_t k, int64_t most = kAny, std::vector<float>* left = nullptr) {
  std::vector<int64_t> doubtful = {-1};
  std::vector<float> rest = {-1};
  FindDoubtful(bounds, exact, k, most, &doubtful, left == nullptr ? &rest : left);
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

TEST(FindDoubtful, LeavesTheBoundsOfTooMany) {
  const std::vector<float> exact = {5, 3, 4, 1}, bounds = {kFound, 3.5f, 2, kFound, 4, 9};
  std::vector<float> left;
  EXPECT_EQ(Doubtful(bounds, exact, 4, 4, &left), (std::vector<int64_t>{1, 2, 4, 5}));
  EXPECT_EQ(left, (std::vector<float>{}));
  EXPECT_EQ(Doubtful(bounds, exact, 4, 2, &left), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(left, (std::vector<float>{3.5f, 2}));
  EXPECT_EQ(Doubtful(bounds, exact, 2, 0, &left), (std::vector<int64_t>{}));
  EXPECT_EQ(left, (std::vector<float>{4, 9}));
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

// Whatever the exact logits below the bounds are, what is proven is among the best; and no more can
// be said, since for the next one there are logits with which it is not.
TEST(CountProven, HoldsForLogitsBelowTheBounds) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> exact(6), bounds(8);
    for (float& x : exact) x = static_cast<float>(random.Below(12));
    for (float& x : bounds) x = static_cast<float>(random.Below(12));
    const auto k = static_cast<int64_t>(1 + random.Below(6));
    const int64_t proven = CountProven(bounds, exact, k);
    std::sort(exact.rbegin(), exact.rend());
    const auto surpassing = [&](const std::vector<float>& others, float logit) {
      return std::ranges::count_if(others, [&](float other) { return other > logit; });
    };
    for (int draw = 0; draw < 10; ++draw) {
      std::vector<float> others;
      for (const float bound : bounds) {
        others.push_back(bound - static_cast<float>(draw * random.Uniform()));
      }
      for (int64_t i = 0; i < proven; ++i) EXPECT_LT(i + surpassing(others, exact[i]), k);
    }
    if (proven == k) continue;
    std::vector<float> others = bounds;
    for (float& other : others) other += 0.5f;  // equal logits decided against it
    EXPECT_GE(proven + surpassing(others, exact[proven]), k);
  }
}

TEST(FindDoubtful, TakesWhatIsNotANumberForInfinity) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> left;
  EXPECT_EQ(Doubtful({1, nan, 3}, {5, 4}, 2), (std::vector<int64_t>{1}));
  EXPECT_EQ(Doubtful({9, nan}, {5, 4}, 2, 1, &left), (std::vector<int64_t>{1}));
  EXPECT_EQ(left, (std::vector<float>{9}));
  EXPECT_EQ(Doubtful({nan, nan}, {5, 4}, 2, 0, &left), (std::vector<int64_t>{}));
  EXPECT_EQ(Proven(left, {5, 4}, 2), 0);
}

TEST(CountProven, ProvesNothingByWhatIsNotANumber) {
  EXPECT_EQ(Proven({1, std::numeric_limits<float>::quiet_NaN()}, {5, 4}, 2), 0);
}

TEST(IsBest, NoOtherTokenHasMore) {
  const std::vector<float> logits = {1, 5, 3, 4, 3};
  const auto best = [&](const std::vector<int64_t>& selected, float rounding = 0) {
    return IsBest(selected, logits, rounding);
  };
  EXPECT_TRUE(best({1}));
  EXPECT_TRUE(best({1, 3}));
  EXPECT_TRUE(best({1, 2, 3}));  // of equal ones, either
  EXPECT_TRUE(best({1, 3, 4}));
  EXPECT_FALSE(best({1, 2}));
  EXPECT_FALSE(best({0, 1, 2, 3}));
  EXPECT_TRUE(best({1, 2}, 1));
  EXPECT_FALSE(best({1, 2}, 0.9f));
  EXPECT_TRUE(best({}));
}

}  // namespace
}  // namespace pqcache::attention
