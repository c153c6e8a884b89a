// pq:certify: what a step claims to be the exactly best tokens is that, and it reads what it needs
// to know.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pqcache/base/vector_math.h"
#include "pqcache/index/position_mean.h"
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

// The same with a mean key for every position. Keys are farther from it than from nothing, so that
// codes say less, and bounds have to be wide.
std::shared_ptr<const CodebookSet> WithPositionMeans(const CodebookSet& plain) {
  auto set = std::make_shared<CodebookSet>(plain);
  for (HeadCodebook& head : set->heads) {
    HeadCodebook::Parts parts{.shape = head.shape(),
                              .centroids = {head.centroids().begin(), head.centroids().end()}};
    std::vector<float> mean(static_cast<size_t>(head.shape().dim), 0.7f);
    std::vector<float> frequencies(mean.size() / 2, 0.01f);
    parts.position_mean =
        PositionMean::Create(head.shape().dim, std::move(mean), std::move(frequencies)).value();
    head = HeadCodebook::Create(std::move(parts)).value();
  }
  return set;
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

struct Case {
  std::string name;
  int heads = 3;
  bool away = false;  // no page that could be read in place
  int64_t sliding_window = 0;
  TailMode tail = TailMode::kDrop;
  int threads = 1;
  bool position_mean = false;
};

class Certify : public ::testing::TestWithParam<Case> {};

TEST_P(Certify, ReadingAllThatIsDoubtfulFindsTheExactlyBestTokens) {
  const Case& c = GetParam();
  constexpr int64_t kSteps = 20;
  const Layers layers = SomeLayers(c.heads);
  RigOptions options = Certifying(layers, "pq:certify,rerank=2,read=1000", "4x4");
  options.attention.sliding_window = c.sliding_window;
  options.attention.tail = c.tail;
  options.threads = c.threads;
  if (c.position_mean) options.codebooks = WithPositionMeans(*options.codebooks);
  ForwardingStore away;
  if (c.away) options.store = &away;
  const Steps certified = Decode(layers, options, kSteps);
  EXPECT_EQ(certified.stats.proofs, kSteps * c.heads);
  EXPECT_EQ(certified.stats.certified, kSteps * c.heads);
  EXPECT_DOUBLE_EQ(certified.stats.proven, kSteps * c.heads);
  EXPECT_EQ(certified.stats.disproved, 0);
  EXPECT_NEAR(certified.stats.recall, kSteps, 1e-9);
  EXPECT_DOUBLE_EQ(certified.stats.selected, kSteps * kK);
  EXPECT_GT(certified.stats.ranked, kSteps * 2 * kK);
  options.store = nullptr;
  options.policy = "flat";
  options.attention.per_head = true;
  // What is left joins by codes of which many are known to be wrong, or by exact scores.
  const double accepted = c.tail == TailMode::kEstimate ? 0.2 : 1e-5;
  EXPECT_LT(MaxDifference(certified.out, Decode(layers, options, kSteps).out), accepted);
}

INSTANTIATE_TEST_SUITE_P(Steps, Certify,
                         ::testing::Values(Case{.name = "held"}, Case{.name = "read", .away = true},
                                           Case{.name = "one_head", .heads = 1},
                                           Case{.name = "sliding_window", .sliding_window = 300},
                                           Case{.name = "tail", .tail = TailMode::kEstimate},
                                           Case{.name = "threads", .away = true, .threads = 3},
                                           Case{.name = "position_mean", .position_mean = true}),
                         [](const auto& test) { return test.param.name; });

TEST(CertifyLimits, StepsOfSeveralTokensProveEveryQuery) {
  const Layers layers = SomeLayers(2);
  Rig rig(&layers, Certifying(layers, "pq:certify,read=1000", "4x4"));
  rig.Prefill(0, kTokens - 4);
  const std::vector<float> together = rig.DecodeTogether(kTokens - 4, kTokens);
  EXPECT_EQ(rig.stats().Total().certified, 4 * 2);
  EXPECT_TRUE(AllFinite(together.data(), std::ssize(together)));
  EXPECT_EQ(rig.attention().MaxStepTokens(kTokens), 1);  // but sessions go one by one
}

TEST(CertifyLimits, FinerCodesReadLess) {
  const Layers layers = SomeLayers(2);
  std::vector<double> ranked;
  for (const char* pq : {"4x4", "8x8", "32x8"}) {
    ranked.push_back(
        Decode(layers, Certifying(layers, "pq:certify,read=1000", pq), 4).stats.ranked);
  }
  EXPECT_GT(ranked[0], ranked[1]);
  EXPECT_GT(ranked[1], 1.5 * ranked[2]);
  EXPECT_LT(ranked[2], 1.2 * 4 * 4 * kK);  // hardly anything was in doubt
}

TEST(CertifyLimits, WhatIsNotReadIsNotClaimed) {
  const Layers layers = SomeLayers(2);
  const HeadStats stats =
      Decode(layers, Certifying(layers, "pq:certify,rerank=2,read=5", "4x4"), 20).stats;
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
  EXPECT_EQ(stats.proofs, 0);
  EXPECT_DOUBLE_EQ(stats.mass, 3);
  options.attention.budget = {.tokens = 0};
  const HeadStats none = Decode(layers, options, 3).stats;
  EXPECT_EQ(none.proofs, 0);
  EXPECT_EQ(none.ranked, 0);
}

TEST(CertifyLimits, KeysThatNoCodeTellsApartStayInOrder) {
  const Layers layers = SomeLayers(2, 300);
  const HeadStats stats =
      Decode(layers, Certifying(layers, "pq:certify,read=1000", "8x8"), 10).stats;
  EXPECT_EQ(stats.certified, 20);
  EXPECT_EQ(stats.disproved, 0);
}

TEST(CertifyLimits, AForkGoesOnWithTheNormsOfItsParent) {
  const Layers layers = SomeLayers(2);
  const RigOptions options = Certifying(layers, "pq:certify,read=1000", "4x4");
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
