#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "pqcache/policy/selection_policy.h"

namespace pqcache {
namespace {

TEST(RecentPolicy, SelectsNothingWhateverTheBudget) {
  const auto policy = *CreatePolicy("recent");
  EXPECT_EQ(policy->score_source(), ScoreSource::kNone);
  EXPECT_FALSE(policy->attends_all());
  EXPECT_FALSE(policy->codes_only());
  for (const int64_t tokens : {0, 10, 100}) {
    SelectionScratch scratch;
    std::vector<int64_t> positions = {1, 2};
    policy->Select({.g = 2, .n = 100, .tokens = tokens}, &scratch, &positions);
    EXPECT_TRUE(positions.empty());
  }
}

}  // namespace
}  // namespace pqcache
