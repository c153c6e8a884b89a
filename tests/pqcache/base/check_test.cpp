#include "pqcache/base/check.h"

#include <gtest/gtest.h>

namespace pqcache {
namespace {

TEST(Check, PassesWhenTrueAndEvaluatesOnce) {
  int evaluated = 0;
  PQCACHE_CHECK(++evaluated == 1, "never printed");
  EXPECT_EQ(evaluated, 1);
}

TEST(CheckDeathTest, PrintsPlaceConditionAndMessage) {
  EXPECT_DEATH(PQCACHE_CHECK(1 > 2, "numbers are ordered"),
               "check_test\\.cpp:[0-9]+: check failed: 1 > 2: numbers are ordered");
}

TEST(CheckDeathTest, DebugCheckFollowsTheBuild) {
#ifdef NDEBUG
  int evaluated = 0;
  PQCACHE_DCHECK(++evaluated == 7, "not evaluated");
  EXPECT_EQ(evaluated, 0);
#else
  EXPECT_DEATH(PQCACHE_DCHECK(false, "debug only"), "debug only");
#endif
}

}  // namespace
}  // namespace pqcache
