#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "pqcache/base/top_k.h"
#include "pqcache/policy/selection_policy.h"
#include "tests/support/random_data.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using testing::ExpectError;
using testing::RandomNormals;

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr int64_t kAllTokens = int64_t{1} << 40;

using Heads = std::vector<std::vector<float>>;  // [G][N]

std::vector<int64_t> Select(const Heads& heads, int64_t tokens, double mass = 0,
                            std::vector<float> always = {}, int64_t least = 0) {
  if (always.empty()) always.assign(heads.size(), kNone);
  std::vector<float> scores;
  for (const auto& head : heads) scores.insert(scores.end(), head.begin(), head.end());
  SelectionScratch scratch;
  std::vector<int64_t> positions;
  (*CreatePolicy("flat"))
      ->Select({.g = static_cast<int>(heads.size()),
                .n = std::ssize(heads[0]),
                .scores = scores.data(),
                .always_lse = always.data(),
                .tokens = tokens,
                .mass = mass,
                .least = least},
               &scratch, &positions);
  return positions;
}

// Share of the attention of a head that each candidate has, in double.
std::vector<double> Shares(const std::vector<float>& logits, float always = kNone) {
  const double high = std::max(*std::max_element(logits.begin(), logits.end()), always);
  double sum = std::exp(always - high);
  for (const float x : logits) sum += std::exp(x - high);
  std::vector<double> shares;
  for (const float x : logits) shares.push_back(std::exp(x - high) / sum);
  return shares;
}

double Mass(const std::vector<double>& shares, const std::vector<int64_t>& positions) {
  double mass = 0;
  for (const int64_t t : positions) mass += shares[t];
  return mass;
}

Heads RandomHeads(const std::vector<float>& scales, int64_t n, uint64_t seed) {
  Heads heads;
  for (const float scale : scales) heads.push_back(RandomNormals(n, ++seed, scale));
  return heads;
}

TEST(TopKPolicy, OneHeadSelectsItsBestScores) {
  std::vector<int32_t> scratch;
  for (const int64_t n : {1, 17, 500}) {
    const std::vector<float> scores = RandomNormals(n, 1);
    for (const int64_t tokens : {int64_t{1}, n / 3, n - 1}) {
      std::vector<int64_t> expected;
      SelectTopK(scores.data(), n, tokens, &scratch, &expected);
      EXPECT_EQ(Select({scores}, tokens), expected);
    }
  }
}

TEST(TopKPolicy, EqualHeadsSelectLikeOne) {
  const std::vector<float> scores = RandomNormals(400, 2, 3);
  for (const int64_t tokens : {1, 40, 200}) {
    EXPECT_EQ(Select({scores, scores, scores}, tokens), Select({scores}, tokens));
  }
}

// Naive: rank by the largest share of any head. Shares that agree to 1e-5 count as ties.
TEST(TopKPolicy, GroupsSelectByTheLargestShare) {
  const int64_t n = 600;
  for (const std::vector<float>& scales :
       {std::vector<float>{1, 1}, {0.1f, 1, 10}, {2, 2, 2, 2, 2, 2, 2}, {1, 100}}) {
    const Heads heads = RandomHeads(scales, n, 3);
    std::vector<double> ranks(static_cast<size_t>(n));
    for (const auto& head : heads) {
      const std::vector<double> shares = Shares(head);
      for (int64_t t = 0; t < n; ++t) ranks[t] = std::max(ranks[t], shares[t]);
    }
    std::vector<double> sorted = ranks;
    std::sort(sorted.rbegin(), sorted.rend());
    for (const int64_t tokens : {1, 10, 100, 599}) {
      const std::vector<int64_t> positions = Select(heads, tokens);
      ASSERT_EQ(std::ssize(positions), tokens);
      std::vector<bool> chosen(static_cast<size_t>(n));
      for (const int64_t t : positions) chosen[t] = true;
      const double last = sorted[tokens - 1];
      for (int64_t t = 0; t < n; ++t) {
        if (chosen[t]) {
          EXPECT_GE(ranks[t], last * (1 - 1e-4)) << t;
        } else {
          EXPECT_LE(ranks[t], last * (1 + 1e-4)) << t;
        }
      }
    }
  }
}

TEST(TopKPolicy, HandWorkedGroup) {
  // Head 0 has half its attention on token 4 and half on token 0; head 1 has nearly all on 2.
  const Heads heads = {{10, -20, -20, -20, 10}, {0, 1, 100, 2, 0}};
  EXPECT_EQ(Select(heads, 1), (std::vector<int64_t>{2}));
  EXPECT_EQ(Select(heads, 2), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(Select(heads, 3), (std::vector<int64_t>{0, 2, 4}));
}

// The second head keeps nearly what it would have alone, though the logits of the first are
// thousands of times larger, and the first keeps its few tokens that matter.
TEST(TopKPolicy, HugeLogitsDoNotCrowdOutTheOtherHeads) {
  const int64_t n = 1000;
  const int64_t tokens = 50;
  for (const float scale : {30.0f, 1000.0f, 1e6f}) {
    const Heads heads = RandomHeads({scale, 1}, n, 4);
    const std::vector<int64_t> positions = Select(heads, tokens);
    EXPECT_GT(Mass(Shares(heads[0]), positions), 0.99) << scale;
    const std::vector<double> shares = Shares(heads[1]);
    EXPECT_GT(Mass(shares, positions), 0.9 * Mass(shares, Select({heads[1]}, tokens))) << scale;
  }
}

// A constant added to all logits of a head changes no attention, so no selection either.
TEST(TopKPolicy, IgnoresTheOffsetOfAHead) {
  Heads heads = RandomHeads({1, 2}, 300, 5);
  for (auto& head : heads) {
    for (float& x : head) x = std::round(x * 64) / 64;  // so that the sums below are exact
  }
  const std::vector<int64_t> before = Select(heads, 30);
  for (float& x : heads[0]) x += 512;
  const std::vector<int64_t> after = Select(heads, 30);
  std::vector<int64_t> common;
  std::set_intersection(before.begin(), before.end(), after.begin(), after.end(),
                        std::back_inserter(common));
  EXPECT_GE(std::ssize(common), 29);  // one pair may tie by rounding
}

TEST(TopKPolicy, SurvivesScoresThatAreNotFinite) {
  const float nan = std::nanf("");
  for (const float bad : {nan, -kNone, kNone}) {
    Heads heads = RandomHeads({1, 1}, 40, 6);
    heads[0][3] = bad;
    heads[1][39] = bad;
    for (const int64_t tokens : {1, 10, 39}) {
      EXPECT_EQ(std::ssize(Select(heads, tokens)), tokens);
      EXPECT_EQ(std::ssize(Select({heads[0]}, tokens)), tokens);
    }
    EXPECT_LE(Select(heads, kAllTokens, 0.9).size(), 40u);
  }
  EXPECT_EQ(Select({{nan, 1, nan, 2}}, 2), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(Select({{kNone, kNone, kNone}, {kNone, kNone, kNone}}, 2),
            (std::vector<int64_t>{0, 1}));
}

// With one head, brute force over all subsets: none with fewer tokens reaches the goal.
TEST(TopKPolicy, MassTakesTheSmallestSet) {
  const int64_t n = 12;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> logits = RandomNormals(n, seed, 2);
    for (const float always : {kNone, 0.0f, 4.0f}) {
      const std::vector<double> shares = Shares(logits, always);
      const double attended = 1 - std::accumulate(shares.begin(), shares.end(), 0.0);
      for (const double mass : {0.1, 0.5, 0.9, 0.99}) {
        const std::vector<int64_t> positions = Select({logits}, kAllTokens, mass, {always});
        EXPECT_GE(attended + Mass(shares, positions), mass - 1e-6);
        for (uint32_t subset = 0; subset < (1u << n); ++subset) {
          if (std::popcount(subset) >= std::ssize(positions)) continue;
          double reached = attended;
          for (int64_t t = 0; t < n; ++t) reached += (subset >> t & 1) != 0 ? shares[t] : 0;
          ASSERT_LT(reached, mass + 1e-6) << "seed " << seed << " subset " << subset;
        }
      }
    }
  }
}

// With several, brute force again: none with fewer tokens reaches the goal on average.
TEST(TopKPolicy, HeadsThatSelectTogetherReachTheMassOnAverage) {
  const int64_t n = 10;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const Heads heads = RandomHeads({0.5f, 1, 3}, n, seed);
    const std::vector<float> always = {0, kNone, 1};
    std::vector<double> shares(static_cast<size_t>(n), 0.0);
    double attended = 3;
    for (size_t i = 0; i < heads.size(); ++i) {
      const std::vector<double> of_head = Shares(heads[i], always[i]);
      for (size_t t = 0; t < shares.size(); ++t) shares[t] += of_head[t];
      attended -= std::accumulate(of_head.begin(), of_head.end(), 0.0);
    }
    for (const double mass : {0.2, 0.8, 0.95}) {
      const std::vector<int64_t> positions = Select(heads, kAllTokens, mass, always);
      EXPECT_GE(attended + Mass(shares, positions), 3 * mass - 1e-6);
      EXPECT_LT(std::ssize(positions), n);
      for (uint32_t subset = 0; subset < (1u << n); ++subset) {
        if (std::popcount(subset) >= std::ssize(positions)) continue;
        double reached = attended;
        for (int64_t t = 0; t < n; ++t) reached += (subset >> t & 1) != 0 ? shares[t] : 0;
        ASSERT_LT(reached, 3 * mass + 1e-6) << "seed " << seed << " subset " << subset;
      }
    }
  }
}

TEST(TopKPolicy, MassStopsAtOnceWhenTheAlwaysAttendedSuffice) {
  const std::vector<float> logits = RandomNormals(100, 8);
  EXPECT_TRUE(Select({logits}, kAllTokens, 0.9, {20}).empty());
  EXPECT_TRUE(Select({logits, logits}, kAllTokens, 0.9, {20, 20}).empty());
  // One head that lacks much keeps the selection going.
  EXPECT_FALSE(Select({logits, logits}, kAllTokens, 0.9, {20, 0}).empty());
}

TEST(TopKPolicy, MassStaysWithinItsBounds) {
  const Heads heads = RandomHeads({1, 2}, 300, 9);
  const std::vector<int64_t> free = Select(heads, kAllTokens, 0.9);
  ASSERT_GT(free.size(), 20u);
  ASSERT_LT(free.size(), 250u);
  const auto size = std::ssize(free);
  // Of the same order: within more tokens lie all of fewer.
  for (const int64_t tokens : {int64_t{0}, int64_t{1}, size / 2}) {
    const std::vector<int64_t> most = Select(heads, tokens, 0.9);
    EXPECT_EQ(std::ssize(most), tokens);
    EXPECT_TRUE(std::ranges::includes(free, most));
  }
  EXPECT_EQ(Select(heads, size, 0.9), free);
  EXPECT_EQ(Select(heads, kAllTokens, 0.9, {}, size), free);
  const std::vector<int64_t> least = Select(heads, kAllTokens, 0.9, {}, size + 30);
  EXPECT_EQ(std::ssize(least), size + 30);
  EXPECT_TRUE(std::ranges::includes(least, free));
  // What there is, and what may be taken, goes before what should be.
  EXPECT_EQ(std::ssize(Select(heads, kAllTokens, 0.9, {}, 1000)), 300);
  EXPECT_EQ(std::ssize(Select(heads, 5, 0.9, {}, 10)), 5);
}

TEST(TopKPolicy, AllTheMassTakesWhatMatters) {
  const std::vector<int64_t> positions = Select({{0, -200, 1, -200}}, kAllTokens, 1.0);
  EXPECT_TRUE(std::ranges::includes(positions, std::vector<int64_t>{0, 2}));
}

// A head whose mass lies elsewhere does not crowd out one whose mass is among the candidates.
TEST(TopKPolicy, SharesAreOfAllTokensOfAHead) {
  const std::vector<float> scores = {3, 2, -9, -9, /* the other head */ -9, -9, 1, 0};
  SelectionRequest request;
  request.g = 2;
  request.n = 4;
  request.tokens = 2;
  request.scores = scores.data();
  SelectionScratch scratch;
  std::vector<int64_t> positions;
  const auto policy = CreatePolicy("pq").value();
  policy->Select(request, &scratch, &positions);
  EXPECT_EQ(positions, (std::vector<int64_t>{0, 2}));
  const float rest[2] = {6, -20};
  request.rest_lse = rest;
  policy->Select(request, &scratch, &positions);
  EXPECT_EQ(positions, (std::vector<int64_t>{2, 3}));
}

TEST(TopKPolicy, RerankIsTheOverfetch) {
  EXPECT_EQ((*CreatePolicy("pq"))->overfetch(), 1);
  EXPECT_EQ((*CreatePolicy("flat"))->overfetch(), 1);
  EXPECT_EQ((*CreatePolicy("pq:rerank=4"))->overfetch(), 4);
  ExpectError(CreatePolicy("pq:rerank=0"), StatusCode::kInvalidArgument,
              "pq:rerank is 0, expected 1 to 16");
  ExpectError(CreatePolicy("pq:rerank=17"), StatusCode::kInvalidArgument, "expected 1 to 16");
  ExpectError(CreatePolicy("pq:codes_only,rerank=2"), StatusCode::kInvalidArgument,
              "keeps no exact keys");
}

TEST(TopKPolicy, StickyIsTheShareThatANewTokenMustExceedBy) {
  EXPECT_FALSE((*CreatePolicy("pq"))->sticky_nats());
  EXPECT_EQ((*CreatePolicy("pq:sticky=0"))->sticky_nats(), 0.0f);
  EXPECT_FLOAT_EQ(*(*CreatePolicy("pq:sticky=0.5"))->sticky_nats(), std::log(2.0f));
  ExpectError(CreatePolicy("pq:sticky=1"), StatusCode::kInvalidArgument, "pq:sticky is 1");
  ExpectError(CreatePolicy("pq:sticky=0.5,certify"), StatusCode::kInvalidArgument,
              "pq:certify with pq:sticky");
  ExpectError(CreatePolicy("pq:sticky=0.5,codes_only"), StatusCode::kInvalidArgument,
              "keeps no exact keys, which pq:sticky ranks by");
}

TEST(TopKPolicy, CertifyReadsMoreAndSaysHowMuchAtMost) {
  EXPECT_EQ((*CreatePolicy("pq:rerank=4"))->certify_most(), 0);
  const auto policy = CreatePolicy("pq:certify").value();
  EXPECT_EQ(policy->overfetch(), 4);
  EXPECT_EQ(policy->certify_most(), 16);
  const auto wide = CreatePolicy("pq:certify,rerank=2,read=1000").value();
  EXPECT_EQ(wide->overfetch(), 2);
  EXPECT_EQ(wide->certify_most(), 1000);
  ExpectError(CreatePolicy("pq:certify,rerank=1"), StatusCode::kInvalidArgument,
              "pq:certify with pq:rerank 1, expected 2 to 16");
  ExpectError(CreatePolicy("pq:certify,rerank=8,read=7"), StatusCode::kInvalidArgument,
              "pq:read is 7, expected 8");
  ExpectError(CreatePolicy("pq:read=20"), StatusCode::kInvalidArgument, "without pq:certify");
  ExpectError(CreatePolicy("pq:certify,codes_only"), StatusCode::kInvalidArgument,
              "keeps no exact keys, which pq:certify ranks by");
}

TEST(TopKPolicy, NamesChooseTheScoreSource) {
  EXPECT_EQ((*CreatePolicy("pq"))->score_source(), ScoreSource::kCodes);
  EXPECT_FALSE((*CreatePolicy("pq"))->codes_only());
  EXPECT_TRUE((*CreatePolicy("pq:codes_only"))->codes_only());
  EXPECT_FALSE((*CreatePolicy("pq:codes_only=false"))->codes_only());
  EXPECT_EQ((*CreatePolicy("flat"))->score_source(), ScoreSource::kKeys);
  EXPECT_FALSE((*CreatePolicy("flat"))->codes_only());
  ExpectError(CreatePolicy("pq:codes_only=maybe"), StatusCode::kInvalidArgument,
              "pq:codes_only is 'maybe'");
  ExpectError(CreatePolicy("pq:code_only"), StatusCode::kInvalidArgument,
              "expected one of: codes_only");
}

}  // namespace
}  // namespace pqcache
