#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "pqcache/policy/selection_policy.h"

namespace pqcache {
namespace {

TEST(ExactPolicy, SelectsEveryTokenWithoutScores) {
  const auto policy = *CreatePolicy("exact");
  EXPECT_EQ(policy->score_source(), ScoreSource::kNone);
  EXPECT_TRUE(policy->attends_all());
  EXPECT_FALSE(policy->codes_only());
  for (const int64_t n : {0, 1, 1000}) {
    std::vector<int64_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    SelectionScratch scratch;
    std::vector<int64_t> positions;
    policy->Select({.g = 2, .n = n, .tokens = 0}, &scratch, &positions);
    EXPECT_EQ(positions, all);
  }
}

}  // namespace
}  // namespace pqcache
