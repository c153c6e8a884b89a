#include "pqcache/base/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "tests/support/random_data.h"

namespace pqcache {
namespace {

using testing::kAwkwardSizes;
using testing::PlantTies;
using testing::RandomIntegers;
using testing::RandomNormals;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int64_t> TopK(const std::vector<float>& scores, int64_t k) {
  std::vector<int32_t> scratch(3, 9);         // left over from another call
  std::vector<int64_t> positions = {77, 88};  // so is this
  SelectTopK(scores.data(), std::ssize(scores), k, &scratch, &positions);
  return positions;
}

// Stable sort by descending score, NaN as minus infinity; the first k in ascending order.
std::vector<int64_t> TopKBySorting(const std::vector<float>& scores, int64_t k) {
  const auto rank = [&](int64_t i) { return std::isnan(scores[i]) ? -kInfinity : scores[i]; };
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return rank(a) > rank(b); });
  order.resize(static_cast<size_t>(std::clamp<int64_t>(k, 0, std::ssize(scores))));
  std::sort(order.begin(), order.end());
  return order;
}

void ExpectLikeSorting(const std::vector<float>& scores) {
  const int64_t n = std::ssize(scores);
  for (const int64_t k : {int64_t{0}, int64_t{1}, int64_t{2}, n / 3, n / 2, n - 1, n, n + 1}) {
    EXPECT_EQ(TopK(scores, k), TopKBySorting(scores, k)) << "n " << n << " k " << k;
  }
}

TEST(SelectTopK, EqualsSorting) {
  for (const int64_t n : kAwkwardSizes) {
    ExpectLikeSorting(RandomNormals(n, 1));
    ExpectLikeSorting(RandomIntegers(n, -2, 2, 2));  // ties everywhere
    if (n == 0) continue;
    std::vector<float> scores = RandomNormals(n, 3);
    PlantTies(n / 2, 4, &scores);
    ExpectLikeSorting(scores);
    for (int64_t i = 0; i < n; i += 3) scores[i] = i % 2 == 0 ? kNan : -kNan;
    for (int64_t i = 1; i < n; i += 7) scores[i] = kInfinity;
    ExpectLikeSorting(scores);
  }
}

TEST(KthLargest, EqualsSorting) {
  std::vector<float> scores = RandomNormals(1000, 5);
  for (int64_t i = 0; i < 100; ++i)
    scores[i] = i % 3 == 0 ? kInfinity : i % 3 == 1 ? -kInfinity : 0;
  std::vector<float> sorted = scores;
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  std::vector<int32_t> scratch;
  for (const int64_t k : {1, 2, 34, 35, 500, 966, 967, 968, 1000}) {
    EXPECT_EQ(KthLargest(scores.data(), 1000, k, &scratch), sorted[static_cast<size_t>(k - 1)]);
  }
  scores.assign(3, kNan);
  EXPECT_EQ(KthLargest(scores.data(), 3, 2, &scratch), -kInfinity);
}

TEST(SelectTopK, TiesGoToTheLowerPosition) {
  EXPECT_EQ(TopK({1, 5, 5, 5, 0}, 2), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(TopK({5, 1, 7, 5, 5}, 3), (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ(TopK({0, 0, 0, 0}, 3), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(TopK({-0.0f, 0.0f}, 1), (std::vector<int64_t>{0}));  // the zeros are equal
}

TEST(SelectTopK, NanRanksLikeMinusInfinity) {
  EXPECT_EQ(TopK({kNan, -kInfinity, -kNan}, 2), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(TopK({kNan, 1, kNan, -9, 2}, 3), (std::vector<int64_t>{1, 3, 4}));
  EXPECT_EQ(TopK({kNan, kNan, 3}, 2), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(TopK({kNan, kNan, kNan}, 2), (std::vector<int64_t>{0, 1}));
}

TEST(SelectTopK, EdgesOfK) {
  const std::vector<float> scores = {3, kNan, 1};
  EXPECT_TRUE(TopK(scores, 0).empty());
  EXPECT_TRUE(TopK(scores, -1).empty());
  EXPECT_EQ(TopK(scores, 3), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(TopK(scores, std::numeric_limits<int64_t>::max()), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_TRUE(TopK({}, 5).empty());
}

TEST(SelectTopK, ReusesItsScratch) {
  std::vector<int32_t> scratch;
  std::vector<int64_t> positions;
  const std::vector<float> scores = RandomNormals(1000, 5);
  SelectTopK(scores.data(), 1000, 100, &scratch, &positions);
  const int32_t* memory = scratch.data();
  const int64_t* list = positions.data();
  SelectTopK(scores.data(), 900, 100, &scratch, &positions);
  EXPECT_EQ(scratch.data(), memory);
  EXPECT_EQ(positions.data(), list);
}

}  // namespace
}  // namespace pqcache
