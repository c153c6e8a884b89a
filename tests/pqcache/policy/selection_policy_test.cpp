// The promises of SelectionPolicy, for every row of the list.

#include "pqcache/policy/selection_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "tests/support/random_data.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using testing::ExpectError;
using testing::RandomIntegers;
using testing::RandomNormals;

constexpr int64_t kAllTokens = int64_t{1} << 40;

class PolicyConformance : public ::testing::TestWithParam<PolicyEntry> {
 protected:
  PolicyConformance() {
    Result<std::unique_ptr<SelectionPolicy>> policy = CreatePolicy(GetParam().name);
    PQCACHE_CHECK(policy.ok(), policy.status().message().c_str());
    policy_ = *std::move(policy);
  }

  bool reads_scores() const { return policy_->score_source() != ScoreSource::kNone; }

  // scores: [G, N].
  std::vector<int64_t> Select(int g, const std::vector<float>& scores, int64_t tokens,
                              double mass = 0) {
    const std::vector<float> always(static_cast<size_t>(g), 0.0f);
    const SelectionRequest request = {.g = g,
                                      .n = std::ssize(scores) / g,
                                      .scores = reads_scores() ? scores.data() : nullptr,
                                      .always_lse = always.data(),
                                      .tokens = tokens,
                                      .mass = mass};
    std::vector<int64_t> positions = {-5, 99};  // left over from another call
    policy_->Select(request, &scratch_, &positions);
    return positions;
  }

  std::unique_ptr<SelectionPolicy> policy_;
  SelectionScratch scratch_;
};

TEST_P(PolicyConformance, PositionsAreAscendingUniqueAndInRange) {
  for (const int g : {1, 4, 7}) {
    for (const int64_t n : testing::kAwkwardSizes) {
      const std::vector<float> scores = RandomNormals(g * n, 1, 3);
      const auto expect_valid = [&](const std::vector<int64_t>& positions) {
        EXPECT_TRUE(std::adjacent_find(positions.begin(), positions.end(),
                                       std::greater_equal<int64_t>()) == positions.end());
        if (positions.empty()) return;
        EXPECT_GE(positions.front(), 0);
        EXPECT_LT(positions.back(), n);
      };
      for (const int64_t tokens : {int64_t{0}, int64_t{1}, n / 2, n, n + 1}) {
        const std::vector<int64_t> positions = Select(g, scores, tokens);
        expect_valid(positions);
        if (reads_scores()) {
          EXPECT_EQ(std::ssize(positions), std::min(tokens, n)) << "N " << n;
        }
      }
      for (const double mass : {1e-9, 0.5, 0.99, 1.0})
        expect_valid(Select(g, scores, kAllTokens, mass));
    }
  }
}

TEST_P(PolicyConformance, BudgetsAtTheirEnds) {
  for (const int g : {1, 4}) {
    const int64_t n = 50;
    const std::vector<float> scores = RandomNormals(g * n, 2);
    std::vector<int64_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    const std::vector<int64_t> least = Select(g, scores, 0);
    const std::vector<int64_t> most = Select(g, scores, n);
    EXPECT_EQ(Select(g, scores, std::numeric_limits<int64_t>::max()), most);
    if (reads_scores()) {
      EXPECT_EQ(most, all);
      EXPECT_TRUE(least.empty());
    } else {
      EXPECT_EQ(most, least);  // position alone decides, not the budget
      EXPECT_EQ(Select(g, scores, kAllTokens, 0.5), least);
    }
    if (policy_->attends_all()) {
      EXPECT_EQ(least, all);
    }
  }
}

TEST_P(PolicyConformance, IsDeterministicAndForgetsThePastCall) {
  for (const int g : {1, 3}) {
    const std::vector<float> scores = RandomNormals(g * 300, 3);
    const std::vector<int64_t> by_count = Select(g, scores, 30);
    const std::vector<int64_t> by_mass = Select(g, scores, kAllTokens, 0.7);
    Select(5, RandomNormals(5 * 1000, 4), 100);
    Select(2, RandomNormals(2 * 10, 5), kAllTokens, 0.3);
    EXPECT_EQ(Select(g, scores, 30), by_count);
    EXPECT_EQ(Select(g, scores, kAllTokens, 0.7), by_mass);
    scratch_ = {};
    EXPECT_EQ(Select(g, scores, 30), by_count);
    EXPECT_EQ(Select(g, scores, kAllTokens, 0.7), by_mass);
  }
}

TEST_P(PolicyConformance, TiesGoToTheLowerPosition) {
  if (!reads_scores()) return;
  for (const int g : {1, 4}) {
    // The same few scores in every head, so that ranks tie exactly.
    const int64_t n = 200;
    const std::vector<float> row = RandomIntegers(n, 0, 3, 6);
    std::vector<float> scores;
    for (int i = 0; i < g; ++i) scores.insert(scores.end(), row.begin(), row.end());
    const auto expect_lowest = [&](const std::vector<int64_t>& positions) {
      const std::set<int64_t> chosen(positions.begin(), positions.end());
      for (const int64_t t : positions) {
        for (int64_t u = 0; u < n; ++u) {
          const bool better = row[u] > row[t] || (row[u] == row[t] && u < t);
          EXPECT_TRUE(!better || chosen.count(u) == 1) << u << " before " << t;
        }
      }
    };
    for (const int64_t tokens : {1, 20, 77, 150}) expect_lowest(Select(g, scores, tokens));
    for (const double mass : {0.1, 0.5, 0.9}) expect_lowest(Select(g, scores, kAllTokens, mass));
  }
}

TEST_P(PolicyConformance, NoCandidatesGiveNoPositions) {
  EXPECT_TRUE(Select(2, {}, 10).empty());
  EXPECT_TRUE(Select(2, {}, 0).empty());
  EXPECT_TRUE(Select(2, {}, kAllTokens, 0.9).empty());
}

TEST_P(PolicyConformance, RefusesUnknownParameters) {
  const std::string name(GetParam().name);
  ExpectError(CreatePolicy(name + ":no_such_thing=1"), StatusCode::kInvalidArgument,
              name + ": unknown parameter 'no_such_thing', expected ");
  ExpectError(CreatePolicy(name + ":"), StatusCode::kInvalidArgument, "empty parameter");
}

TEST_P(PolicyConformance, RowIsComplete) {
  EXPECT_FALSE(GetParam().name.empty());
  EXPECT_FALSE(GetParam().help.empty());
  EXPECT_EQ(GetParam().name.find_first_of(":,= "), std::string_view::npos);
  EXPECT_EQ(std::ranges::count(Policies(), GetParam().name, &PolicyEntry::name), 1);
}

INSTANTIATE_TEST_SUITE_P(Policies, PolicyConformance, ::testing::ValuesIn(Policies()),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(CreatePolicy, UnknownNamesListTheKnownOnes) {
  const Status status = CreatePolicy("best").status();
  ExpectError(status, StatusCode::kInvalidArgument, "unknown policy 'best', expected one of: ");
  for (const PolicyEntry& entry : Policies()) {
    EXPECT_NE(status.message().find(entry.name), std::string::npos) << status.message();
  }
  EXPECT_FALSE(CreatePolicy("").ok());
  EXPECT_FALSE(CreatePolicy("PQ").ok());
}

TEST(SelectionBudget, TokensForAContext) {
  EXPECT_EQ((SelectionBudget{.tokens = 100}.TokensFor(7)), 100);
  EXPECT_EQ((SelectionBudget{.ratio = 0.05}.TokensFor(1000)), 50);
  EXPECT_EQ((SelectionBudget{.ratio = 0.05}.TokensFor(1009)), 50);  // 50.45
  EXPECT_EQ((SelectionBudget{.ratio = 0.05}.TokensFor(1010)), 51);  // 50.5
  EXPECT_EQ((SelectionBudget{.ratio = 1}.TokensFor(int64_t{1} << 40)), int64_t{1} << 40);
  EXPECT_EQ((SelectionBudget{.ratio = 0.001}.TokensFor(10)), 0);
  EXPECT_EQ((SelectionBudget{.mass = 0.9}.TokensFor(1000)), 1000);
  EXPECT_EQ((SelectionBudget{.ratio = 0.05, .mass = 0.9}.TokensFor(1000)), 50);
  EXPECT_EQ((SelectionBudget{.tokens = 7, .mass = 0.9}.TokensFor(1000)), 7);
  EXPECT_EQ(SelectionBudget{}.TokensFor(1000), 0);
}

}  // namespace
}  // namespace pqcache
