#include "attention/shadow_step.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/attention_fixture.h"
#include "tests/support/faulty_store.h"
#include "tests/support/selection_oracle.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::ExpectError;
using testing::FaultyStore;
using testing::RandomSequence;
using testing::Rig;
using testing::RigOptions;
using testing::RulePolicy;
using testing::Sequence;
using testing::Split;
using testing::StepOracle;

using Layers = std::vector<Sequence>;

RigOptions Options(const std::string& policy, SelectionBudget budget) {
  RigOptions options = testing::SmallSplit(policy, budget);
  options.attention.shadow_every = 1;
  return options;
}

double Share(const std::vector<int64_t>& found, const std::vector<int64_t>& wanted) {
  const auto hits = std::ranges::count_if(
      wanted, [&](int64_t t) { return std::ranges::find(found, t) != found.end(); });
  return static_cast<double>(hits) / static_cast<double>(wanted.size());
}

double RelativeError(const std::vector<double>& found, const std::vector<double>& exact) {
  double error = 0, norm = 0;
  for (size_t d = 0; d < exact.size(); ++d) {
    error += std::pow(found[d] - exact[d], 2);
    norm += std::pow(exact[d], 2);
  }
  return std::sqrt(error / norm);
}

// What the step of one KV head must report when each query head attended to `chosen(g)`.
template <typename Chosen>
HeadStats Expected(const StepOracle& oracle, bool per_head, const Chosen& chosen) {
  HeadStats stats;
  const double share = 1.0 / oracle.group();
  for (const int g : oracle.AllHeads()) {
    const std::vector<int64_t> found = chosen(g);
    const std::vector<bool> keep = oracle.split.Keep(oracle.t + 1, found);
    double attended = 0;
    for (int64_t i = 0; i <= oracle.t; ++i) {
      if (keep[static_cast<size_t>(i)]) attended += std::exp(oracle.Logit(oracle.exact, g, i));
    }
    stats.mass += share * attended / (oracle.AlwaysMass(g) + oracle.CandidateMass(g));
    std::vector<int64_t> everything(static_cast<size_t>(oracle.split.end - oracle.split.begin));
    std::iota(everything.begin(), everything.end(), oracle.split.begin);
    stats.output_error +=
        share * RelativeError(oracle.Attend(g, found), oracle.Attend(g, everything));
    const auto best = oracle.Best(per_head ? std::vector<int>{g} : oracle.AllHeads(),
                                  static_cast<int64_t>(found.size()));
    stats.recall += share * Share(found, best);
  }
  return stats;
}

TEST(ShadowStep, ReportsRecallMassAndErrorOfTheSelection) {
  for (const int group : {1, 4}) {
    const Layers layers = {RandomSequence(1, 180, 2 * group, 2, 32)};
    for (const bool per_head : {false, true}) {
      for (const int64_t sliding_window : {0, 100}) {
        RigOptions options = Options("", {});
        options.cache.keep_keys = true;
        options.attention.policy =
            std::make_shared<RulePolicy>(testing::EveryThird, ScoreSource::kKeys);
        options.attention.per_head = per_head;
        options.attention.sliding_window = sliding_window;
        Rig rig(&layers, options);
        rig.Prefill(0, 179);
        rig.Decode(179);
        const Split split = rig.SplitAt(179);
        std::vector<int64_t> thirds;
        for (int64_t t = split.begin + 1; t < split.end; t += 3) thirds.push_back(t);
        for (int h = 0; h < 2; ++h) {
          const StepOracle oracle{layers[0], layers[0], 179, h, split};
          const HeadStats expected = Expected(oracle, per_head, [&](int) { return thirds; });
          const HeadStats& found = rig.stats().heads[static_cast<size_t>(h)];
          EXPECT_EQ(found.shadow_steps, 1);
          EXPECT_NEAR(found.recall, expected.recall, 1e-9);
          EXPECT_NEAR(found.mass, expected.mass, 1e-5);
          EXPECT_NEAR(found.output_error, expected.output_error, 1e-5);
          EXPECT_GT(found.recall, 0.1);
          EXPECT_LT(found.recall, 0.7);
        }
      }
    }
  }
}

TEST(ShadowStep, ReportsTheSelectionOfCodes) {
  const Layers layers = {RandomSequence(2, 180, 8, 2, 32)};
  for (const bool per_head : {false, true}) {
    RigOptions options = Options("pq", {.tokens = 15});
    options.attention.per_head = per_head;
    options.codebooks = testing::RandomCodebooks(layers, "8x4");
    Rig rig(&layers, options);
    rig.Prefill(0, 179);
    rig.Decode(179);
    const Split split = rig.SplitAt(179);
    const Sequence decoded =
        testing::WithDecodedKeys(layers[0], *options.codebooks, 0, split.begin, split.end);
    for (int h = 0; h < 2; ++h) {
      const StepOracle coded{layers[0], decoded, 179, h, split};
      const StepOracle oracle{layers[0], layers[0], 179, h, split};
      const HeadStats expected = Expected(oracle, per_head, [&](int g) {
        return coded.Best(per_head ? std::vector<int>{g} : coded.AllHeads(), 15);
      });
      const HeadStats& found = rig.stats().heads[static_cast<size_t>(h)];
      EXPECT_NEAR(found.recall, expected.recall, 1e-9);
      EXPECT_NEAR(found.mass, expected.mass, 1e-5);
      EXPECT_NEAR(found.output_error, expected.output_error, 1e-5);
      EXPECT_LT(found.recall, 1);
    }
  }
}

TEST(ShadowStep, ExactStepsArePerfect) {
  const Layers layers = {RandomSequence(3, 120, 4, 2, 32)};
  for (const char* policy : {"exact", "flat", "pq", "pq:codes_only"}) {
    RigOptions options = Options(policy, testing::kAll);
    options.codebooks = testing::RandomCodebooks(layers, "8x4");
    // Without stored keys the judge sees what the step saw: exact sinks, decoded pages.
    if (options.policy == "pq:codes_only") options.cache.page.layout = PageLayout::kValueOnly;
    Rig rig(&layers, options);
    rig.Prefill(0, 100);
    for (int64_t t = 100; t < 120; ++t) rig.Decode(t);
    const HeadStats stats = rig.stats().Total();
    EXPECT_EQ(stats.shadow_steps, 40);
    EXPECT_NEAR(stats.recall / 40, 1, 1e-12);
    EXPECT_NEAR(stats.mass / 40, 1, 1e-6);
    EXPECT_LT(stats.output_error / 40, 2e-6) << policy;
  }
}

TEST(ShadowStep, ExactScoresHaveFullRecall) {
  const Layers layers = {RandomSequence(4, 120, 8, 2, 32)};
  for (const bool per_head : {false, true}) {
    RigOptions options = Options("flat", {.tokens = 9});
    options.attention.per_head = per_head;
    Rig rig(&layers, options);
    rig.Prefill(0, 119);
    rig.Decode(119);
    EXPECT_NEAR(rig.stats().Total().recall, 2, 1e-12);
    EXPECT_LT(rig.stats().Total().mass, 2);
    EXPECT_GT(rig.stats().Total().output_error, 0);
  }
}

TEST(ShadowStep, EveryNthTokenIsJudgedInAllLayers) {
  const Layers layers = {RandomSequence(5, 60, 2, 2, 16), RandomSequence(6, 60, 2, 2, 16)};
  for (const int every : {0, 1, 3, 20}) {
    RigOptions options = Options("flat", {.tokens = 5});
    options.attention.shadow_every = every;
    Rig rig(&layers, options);
    rig.Prefill(0, 50);
    for (int64_t t = 50; t < 60; ++t) rig.Decode(t);
    for (const HeadStats& head : rig.stats().heads) {
      EXPECT_EQ(head.steps, 10);
      EXPECT_EQ(head.shadow_steps, every == 0 ? 0 : 10 / every);
    }
  }
}

TEST(ShadowStep, StepsWithoutCandidatesArePerfect) {
  for (const int64_t sliding_window : {0, 5, 30}) {
    for (const int window : {10, 24}) {  // the sliding window may begin inside the local one
      const Layers layers = {RandomSequence(7, 80, 4, 2, 16)};
      RigOptions options = Options("flat", {.tokens = 0});
      options.cache.n_sink = 100;
      options.cache.local_window = window;
      options.attention.sliding_window = sliding_window;
      Rig rig(&layers, options);
      for (int64_t t = 0; t < 80; ++t) rig.Decode(t);
      const HeadStats stats = rig.stats().Total();
      EXPECT_EQ(stats.shadow_steps, 160);
      EXPECT_NEAR(stats.recall, 160, 1e-9);
      EXPECT_NEAR(stats.mass, 160, 1e-4);
      EXPECT_LT(stats.output_error, 160 * 1e-5);
    }
  }
}

TEST(ShadowStep, APageThatOnlyTheJudgeReadsIsNamed) {
  const Layers layers = {RandomSequence(8, 120, 4, 2, 16)};
  FaultyStore store;
  RigOptions options = Options("flat", {});
  options.store = &store;
  options.attention.shadow_every = 2;
  options.threads = 2;
  Rig rig(&layers, options);
  rig.Prefill(0, 110);
  store.damages = [](const PageKey& key) { return key.head == 1 && key.page == 2; };
  EXPECT_OK(rig.TryDecode(110));
  ExpectError(rig.TryDecode(111), StatusCode::kCorruption, "layer 0 head 1 page 2");
}

}  // namespace
}  // namespace pqcache::attention
