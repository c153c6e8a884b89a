#include "attention/sdpa_reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace pqcache::attention {
namespace {

constexpr double kInfinity = INFINITY;
const float kLn3 = std::log(3.0f);

void ExpectNear(const std::vector<double>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isinf(expected[i])) {
      EXPECT_EQ(found[i], expected[i]) << "number " << i;
    } else {
      EXPECT_NEAR(found[i], expected[i], 1e-6) << "number " << i;
    }
  }
}

TEST(SdpaReference, WeighsByTheExponentialOfTheInnerProduct) {
  const float query[] = {1}, keys[] = {0, kLn3}, values[] = {10, 20};
  const SdpaResult r =
      SdpaReference({.n = 1, .t = 2, .heads = 1, .kv_heads = 1, .dim = 1}, query, keys, values);
  ExpectNear(r.out, {17.5});  // weights 1/4 and 3/4
  ExpectNear(r.lse, {std::log(4.0)});
}

TEST(SdpaReference, ScalesByTheRootOfTheHeadSizeUnlessTold) {
  const float query[] = {2, 0, 0, 0};
  const float keys[] = {0, 5, 5, 5, kLn3, -1, -1, -1};
  const float values[] = {1, 0, 0, 8, 5, 0, 4, 0};
  SdpaShape shape = {.n = 1, .t = 2, .heads = 1, .kv_heads = 1, .dim = 4};
  ExpectNear(SdpaReference(shape, query, keys, values).out, {4, 0, 3, 2});
  shape.scale = 1;  // weights 1/10 and 9/10
  const SdpaResult r = SdpaReference(shape, query, keys, values);
  ExpectNear(r.out, {4.6, 0, 3.6, 0.8});
  ExpectNear(r.lse, {std::log(10.0)});
}

TEST(SdpaReference, RowsAreTheLastTokensAndSeeThemselvesAndThePast) {
  const float queries[] = {0, 0}, keys[] = {7, 7, 7}, values[] = {1, 2, 6};
  const SdpaShape shape = {.n = 2, .t = 3, .heads = 1, .kv_heads = 1, .dim = 1};
  const SdpaResult r = SdpaReference(shape, queries, keys, values);
  ExpectNear(r.out, {1.5, 3});
  ExpectNear(r.lse, {std::log(2.0), std::log(3.0)});
}

TEST(SdpaReference, SlidingWindowCountsTheTokenItself) {
  const float queries[] = {0, 0, 0}, keys[] = {1, 1, 1}, values[] = {1, 2, 6};
  SdpaShape shape = {.n = 3, .t = 3, .heads = 1, .kv_heads = 1, .dim = 1, .sliding_window = 2};
  ExpectNear(SdpaReference(shape, queries, keys, values).out, {1, 1.5, 4});
  shape.sliding_window = 1;
  ExpectNear(SdpaReference(shape, queries, keys, values).out, {1, 2, 6});
  shape.sliding_window = 9;
  ExpectNear(SdpaReference(shape, queries, keys, values).out, {1, 1.5, 3});
}

TEST(SdpaReference, QueryHeadsShareTheKeysOfTheirGroup) {
  // Two rows [Hq = 4, D = 1] over three tokens [Hkv = 2, D = 1].
  const float queries[] = {0, 1, 0, 1, 0, 2, 0, 2};
  const float keys[] = {0, kLn3, kLn3, 0, 0, 0};
  const float values[] = {1, 10, 5, 30, 9, 80};
  const SdpaShape shape = {.n = 2, .t = 3, .heads = 4, .kv_heads = 2, .dim = 1};
  ExpectNear(SdpaReference(shape, queries, keys, values).out,
             {3, 4, 20, 15, 5, (1 + 9 * 5 + 9) / 11.0, 40, (9 * 10 + 30 + 80) / 11.0});
}

TEST(SdpaReference, KeepsOnlyWhatItIsTold) {
  const float query[] = {1}, keys[] = {0, kLn3, 50}, values[] = {10, 20, 99};
  const SdpaShape shape = {.n = 1, .t = 3, .heads = 1, .kv_heads = 1, .dim = 1};
  ExpectNear(SdpaReference(shape, query, keys, values, {true, true, false}).out, {17.5});
  ExpectNear(SdpaReference(shape, query, keys, values, {false, true, false}).out, {20});
  ExpectNear(SdpaReference(shape, query, keys, values, {true, true, true}).out, {99});
  const SdpaResult none = SdpaReference(shape, query, keys, values, {false, false, false});
  ExpectNear(none.out, {0});
  ExpectNear(none.lse, {-kInfinity});
}

TEST(SdpaReference, AnInnerProductOfZeroIsALegalOne) {
  const float query[] = {1, 0}, keys[] = {0, 9, 0, -3}, values[] = {1, 2, 3, 4};
  const SdpaShape shape = {.n = 1, .t = 2, .heads = 1, .kv_heads = 1, .dim = 2};
  ExpectNear(SdpaReference(shape, query, keys, values).out, {2, 3});
}

TEST(SdpaReference, LargeScoresDoNotOverflow) {
  const float query[] = {1000}, keys[] = {1000, 1000, -1000}, values[] = {1, 3, 7};
  const SdpaShape shape = {.n = 1, .t = 3, .heads = 1, .kv_heads = 1, .dim = 1};
  const SdpaResult r = SdpaReference(shape, query, keys, values);
  ExpectNear(r.out, {2});
  ExpectNear(r.lse, {1e6 + std::log(2.0)});
}

TEST(SdpaReference, NotANumberStaysWhereItIsAttended) {
  const float queries[] = {1, 1}, keys[] = {0, NAN}, values[] = {4, 8};
  const SdpaShape shape = {.n = 2, .t = 2, .heads = 1, .kv_heads = 1, .dim = 1};
  const SdpaResult r = SdpaReference(shape, queries, keys, values);
  EXPECT_EQ(r.out[0], 4);
  EXPECT_TRUE(std::isnan(r.out[1]));
}

}  // namespace
}  // namespace pqcache::attention
