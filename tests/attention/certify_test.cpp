// pq:certify: what a step claims to be the exactly best tokens is that, and it reads what it needs
// to know.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/attention_fixture.h"
#include "tests/support/forwarding_store.h"

namespace pqcache::attention {
namespace {

using namespace pqcache::testing;

using Layers = std::vector<Sequence>;

constexpr int64_t kTokens = 700;
constexpr int64_t kK = 12;

// Random keys with `near` of them in one place, which no code tells apart.
Layers SomeLayers(int heads, int64_t near = 0) {
  Layers layers = {RandomSequence(3, kTokens, heads, 1, 32)};
  Sequence& s = layers[0];
  for (int64_t t = 100; t < 100 + near; ++t) {
    for (int d = 0; d < s.dim; ++d) {
      s.key(t, 0)[d] = s.key(99, 0)[d] + 1e-3f * static_cast<float>(t) / kTokens;
    }
  }
  return layers;
}

RigOptions Certifying(const Layers& layers, const std::string& policy, const std::string& pq) {
  RigOptions options = SmallSplit(policy, {.tokens = kK});
  options.attention.shadow_every = 1;
  options.codebooks = RandomCodebooks(layers, pq);
  return options;
}

struct Steps {
  std::vector<float> out;
  HeadStats stats;
};

// Decodes the last `count` tokens.
Steps Decode(const Layers& layers, const RigOptions& options, int64_t count) {
  Rig rig(&layers, options);
  rig.Prefill(0, kTokens - count);
  Steps steps;
  for (int64_t t = kTokens - count; t < kTokens; ++t) {
    const std::vector<float> out = rig.Decode(t);
    steps.out.insert(steps.out.end(), out.begin(), out.end());
  }
  steps.stats = rig.stats().Total();
  return steps;
}

class Certify : public ::testing::TestWithParam<bool> {};

TEST_P(Certify, ReadingAllThatIsDoubtfulFindsTheExactlyBestTokens) {
  const Layers layers = SomeLayers(3);
  RigOptions options = Certifying(layers, "pq:certify,rerank=2,widen=1000", "4x4");
  ForwardingStore away;  // no page that could be read in place
  if (GetParam()) options.store = &away;
  const Steps certified = Decode(layers, options, 20);
  EXPECT_EQ(certified.stats.proofs, 20 * 3);
  EXPECT_EQ(certified.stats.certified, 20 * 3);
  EXPECT_DOUBLE_EQ(certified.stats.proven, 20 * 3);
  EXPECT_EQ(certified.stats.disproved, 0);
  EXPECT_NEAR(certified.stats.recall, 20, 1e-9);
  EXPECT_DOUBLE_EQ(certified.stats.selected, 20 * kK);
  EXPECT_GT(certified.stats.ranked, 20 * 2 * kK);
  options.store = nullptr;
  options.policy = "flat";
  options.attention.per_head = true;
  EXPECT_LT(MaxDifference(certified.out, Decode(layers, options, 20).out), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Pages, Certify, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "read" : "held"; });

TEST(CertifyLimits, FinerCodesReadLess) {
  const Layers layers = SomeLayers(2);
  std::vector<double> ranked;
  for (const char* pq : {"4x4", "8x8", "32x8"}) {
    ranked.push_back(
        Decode(layers, Certifying(layers, "pq:certify,widen=1000", pq), 4).stats.ranked);
  }
  EXPECT_GT(ranked[0], ranked[1]);
  EXPECT_GT(ranked[1], 1.5 * ranked[2]);
  EXPECT_LT(ranked[2], 1.2 * 4 * 4 * kK);  // hardly anything was in doubt
}

TEST(CertifyLimits, WhatIsNotReadIsNotClaimed) {
  const Layers layers = SomeLayers(2);
  const HeadStats stats =
      Decode(layers, Certifying(layers, "pq:certify,rerank=2,widen=5", "4x4"), 20).stats;
  EXPECT_DOUBLE_EQ(stats.ranked, 20 * 5 * kK);  // there was more in doubt at every step
  EXPECT_EQ(stats.proofs, 20 * 2);
  EXPECT_EQ(stats.certified, 0);
  EXPECT_LE(stats.proven, 2 * stats.recall);
  EXPECT_GT(2 * stats.recall, stats.proven + 1);  // it finds more than it can prove
  EXPECT_EQ(stats.disproved, 0);
}

TEST(CertifyLimits, SelectingEverythingNeedsNoProof) {
  const Layers layers = SomeLayers(2);
  RigOptions options = Certifying(layers, "pq:certify", "4x4");
  options.attention.budget = kAll;
  const HeadStats stats = Decode(layers, options, 3).stats;
  EXPECT_EQ(stats.certified, stats.proofs);
  options.attention.budget = {.tokens = 0};
  const HeadStats none = Decode(layers, options, 3).stats;
  EXPECT_EQ(none.certified, none.proofs);
  EXPECT_EQ(none.ranked, 0);
}

TEST(CertifyLimits, KeysThatNoCodeTellsApartStayInOrder) {
  const Layers layers = SomeLayers(2, 300);
  const HeadStats stats =
      Decode(layers, Certifying(layers, "pq:certify,widen=1000", "8x8"), 10).stats;
  EXPECT_EQ(stats.certified, 20);
  EXPECT_EQ(stats.disproved, 0);
}

TEST(CertifyLimits, AForkGoesOnWithTheNormsOfItsParent) {
  const Layers layers = SomeLayers(2);
  const RigOptions options = Certifying(layers, "pq:certify,widen=1000", "4x4");
  Rig parent(&layers, options);
  parent.Prefill(0, kTokens - 2);
  parent.Decode(kTokens - 2);
  Rig fork(parent, &layers);
  EXPECT_EQ(fork.Decode(kTokens - 1), parent.Decode(kTokens - 1));
  EXPECT_EQ(fork.stats().Total().certified, 2);
}

TEST(CertifyLimits, AHeadWithANaNAttendsExactlyAndClaimsNothing) {
  Layers layers = SomeLayers(2);
  layers[0].key(50, 0)[0] = NAN;
  const HeadStats stats = Decode(layers, Certifying(layers, "pq:certify", "4x4"), 2).stats;
  EXPECT_EQ(stats.proofs, 0);
}

}  // namespace
}  // namespace pqcache::attention
