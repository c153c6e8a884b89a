// What a decode step selects, what it makes of the rest, and what it reports: compared with the
// definitions in selection_oracle.h.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "attention/cache_attention.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/selection_oracle.h"

namespace pqcache::attention {
namespace {

using testing::ExactHead;
using testing::ExactRow;
using testing::kAll;
using testing::MaxDifference;
using testing::RandomSequence;
using testing::Rig;
using testing::RigOptions;
using testing::RulePolicy;
using testing::Sequence;
using testing::SmallSplit;
using testing::Split;
using testing::StepOracle;

using Layers = std::vector<Sequence>;

std::span<const float> HeadOf(const std::vector<float>& out, const Sequence& s, int head) {
  return std::span(out).subspan(static_cast<size_t>(head * s.dim), static_cast<size_t>(s.dim));
}

// Decodes token t after a prefill of the others, and compares every query head with the oracle's
// selection; returns the statistics.
HeadStats ExpectOracle(const Layers& layers, const RigOptions& options, int64_t t) {
  const Sequence& s = layers[0];
  Rig rig(&layers, options);
  rig.Prefill(0, t);
  const std::vector<float> out = rig.Decode(t);
  const SelectionBudget& budget = options.attention.budget;
  const Split split = rig.SplitAt(t);
  const Sequence scored =
      options.policy == "flat"
          ? s
          : testing::WithDecodedKeys(s, *options.codebooks, 0, split.begin, split.end);
  const Sequence& attended = options.policy == "pq:codes_only" ? scored : s;
  // Codes are checked against exact logits of this many, under a budget of mass.
  const size_t least = options.policy == "pq" ? 32 : 0;
  double selected = 0;
  for (int h = 0; h < s.kv_heads; ++h) {
    const HeadCodebook* codebook =
        options.policy == "pq" ? &options.codebooks->head(0, h) : nullptr;
    const StepOracle oracle{attended, scored, t, h, split, codebook};
    for (int g = 0; g < s.group(); ++g) {
      const std::vector<int> heads =
          options.attention.per_head ? std::vector<int>{g} : oracle.AllHeads();
      const std::vector<int64_t> chosen = budget.mass > 0
                                              ? oracle.Reaching(heads, budget.mass, least)
                                              : oracle.Best(heads, budget.TokensFor(t + 1));
      const std::vector<double> expected =
          options.attention.tail == TailMode::kDrop
              ? oracle.Attend(g, chosen)
              : oracle.AttendWithTail(g, chosen, options.cache.n_sink, kValueBlockTokens);
      EXPECT_LT(MaxDifference(HeadOf(out, s, h * s.group() + g), expected), 1e-5)
          << options.policy << " head " << h << " query head " << g;
      selected += static_cast<double>(chosen.size()) / s.group();
    }
  }
  const HeadStats stats = rig.stats().Total();
  EXPECT_DOUBLE_EQ(stats.selected, selected);
  EXPECT_EQ(stats.steps, s.kv_heads);
  EXPECT_EQ(stats.context, static_cast<double>(s.kv_heads * (t + 1)));
  EXPECT_EQ(stats.scored, static_cast<double>(s.kv_heads * (split.end - split.begin)));
  return stats;
}

// Runs ExpectOracle for every policy with scores, with one and with four query heads a group.
void ExpectOracleForAll(SelectionBudget budget, TailMode tail, int64_t sliding_window = 0) {
  for (const int group : {1, 4}) {
    const Layers layers = {RandomSequence(1, 200, 2 * group, 2, 32)};
    for (const char* policy : {"flat", "pq", "pq:codes_only"}) {
      for (const bool per_head : {false, true}) {
        RigOptions options = SmallSplit(policy, budget);
        options.attention.per_head = per_head;
        options.attention.tail = tail;
        options.attention.sliding_window = sliding_window;
        // Few centroids, so that many tokens have equal codes and equal scores.
        options.codebooks = testing::WithResiduals(*testing::RandomCodebooks(layers, "2x4"), 20);
        SCOPED_TRACE(std::string(policy) + " group " + std::to_string(group) +
                     (per_head ? " per head" : ""));
        ExpectOracle(layers, options, 199);
        ExpectOracle(layers, options, 100);
      }
    }
  }
}

TEST(CacheAttentionSelection, SelectsTheBestTokensByCount) {
  for (const int64_t k : {0, 1, 5, 60, 170}) {
    SCOPED_TRACE(std::to_string(k) + " tokens");
    ExpectOracleForAll({.tokens = k}, TailMode::kDrop);
  }
  ExpectOracleForAll({.ratio = 0.13}, TailMode::kDrop);
}

// What many candidates leave over joins with its mass by the codes, the mean value of all and, to a
// part, what the chosen ones mix.
TEST(CacheAttentionSelection, OfManyTokensTheRestJoinsWithOneMeanValueAndLikeTheChosen) {
  const Layers layers = {RandomSequence(8, 6000, 4, 1, 32)};
  const Sequence& s = layers[0];
  const int64_t t = 5999, k = 600;
  for (const bool per_head : {false, true}) {
    RigOptions options = SmallSplit("pq", {.tokens = k});
    options.attention.per_head = per_head;
    options.attention.tail = TailMode::kEstimate;
    options.codebooks = testing::WithResiduals(*testing::RandomCodebooks(layers, "8x8"), 20);
    Rig rig(&layers, options);
    rig.Prefill(0, t);
    const std::vector<float> out = rig.Decode(t);
    const Split split = rig.SplitAt(t);
    const Sequence scored =
        testing::WithDecodedKeys(s, *options.codebooks, 0, split.begin, split.end);
    const StepOracle oracle{s, scored, t, 0, split, &options.codebooks->head(0, 0)};
    std::vector<double> mean(static_cast<size_t>(s.dim), 0.0);
    for (int64_t i = split.begin; i < split.end; ++i) {
      for (int d = 0; d < s.dim; ++d) {
        mean[static_cast<size_t>(d)] +=
            s.value(i, 0)[d] / static_cast<double>(split.end - split.begin);
      }
    }
    // How far outputs are moved from those with the mean value alone, along the way they should be:
    // differences by other tokens at the end of the selection go anywhere.
    double moved = 0, to_move = 0;
    for (int g = 0; g < s.group(); ++g) {
      const std::vector<int64_t> chosen =
          oracle.Best(per_head ? std::vector<int>{g} : oracle.AllHeads(), k);
      const auto [attended, left] = oracle.MassesOf(g, chosen);
      const std::vector<double> of_chosen = oracle.AttendChosen(g, chosen);
      std::vector<double> expected = oracle.Attend(g, chosen);
      for (size_t d = 0; d < expected.size(); ++d) {
        const double with_mean = (attended * expected[d] + left * mean[d]) / (attended + left);
        const double move = kTailLikeChosen * left * (of_chosen[d] - mean[d]) / (attended + left);
        moved += (HeadOf(out, s, g)[d] - with_mean) * move;
        to_move += move * move;
        expected[d] = with_mean + move;
      }
      EXPECT_LT(MaxDifference(HeadOf(out, s, g), expected), 0.02) << g;
      EXPECT_GT(MaxDifference(HeadOf(out, s, g), oracle.Attend(g, chosen)), 0.02) << g;
    }
    EXPECT_NEAR(moved / to_move, 1, 0.3);
    const HeadStats stats = rig.stats().Total();
    EXPECT_DOUBLE_EQ(stats.estimated, static_cast<double>(split.end - split.begin - k));
  }
}

// Of many candidates the best are found by quantised scores and without one for each: the set may
// differ at its end, where tokens matter least. Queries that select together share the step of
// their tables, which rounds a little coarser.
TEST(CacheAttentionSelection, OfManyTokensItFindsTheBestWithoutScoringAll) {
  const Layers layers = {RandomSequence(7, 6000, 4, 1, 32)};
  const Sequence& s = layers[0];
  const int64_t t = 5999, k = 600;
  for (const bool per_head : {false, true}) {
    RigOptions options = SmallSplit("pq", {.tokens = k});
    options.attention.per_head = per_head;
    options.codebooks = testing::WithResiduals(*testing::RandomCodebooks(layers, "8x8"), 20);
    Rig rig(&layers, options);
    rig.Prefill(0, t);
    const std::vector<float> out = rig.Decode(t);
    const Split split = rig.SplitAt(t);
    const Sequence scored =
        testing::WithDecodedKeys(s, *options.codebooks, 0, split.begin, split.end);
    const StepOracle oracle{s, scored, t, 0, split, &options.codebooks->head(0, 0)};
    double missed = 0;
    for (int g = 0; g < s.group(); ++g) {
      const std::vector<int64_t> chosen =
          oracle.Best(per_head ? std::vector<int>{g} : oracle.AllHeads(), k);
      EXPECT_LT(MaxDifference(HeadOf(out, s, g), oracle.Attend(g, chosen)), 0.03) << g;
      const auto [attended, left] = oracle.MassesOf(g, chosen);
      missed += left / (left + attended);
    }
    const HeadStats stats = rig.stats().Total();
    EXPECT_EQ(stats.selected, static_cast<double>(k));
    EXPECT_NEAR(stats.missed_mass / static_cast<double>(stats.mass_steps), missed / s.group(),
                0.03);
  }
}

// The k candidates with the largest share of the mass of any query head of any of the tokens.
std::vector<int64_t> BestTogether(const std::vector<StepOracle>& tokens, int64_t k) {
  const Split& split = tokens[0].split;
  std::vector<std::pair<double, int64_t>> shares;  // negative, so that the best comes first
  for (int64_t i = split.begin; i < split.end; ++i) {
    double best = 0;
    for (const StepOracle& oracle : tokens) {
      for (int g = 0; g < oracle.group(); ++g) {
        best = std::max(best, oracle.ScoredMass(g, i) / oracle.CandidateMass(g));
      }
    }
    shares.emplace_back(-best, i);
  }
  std::sort(shares.begin(), shares.end());
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < std::min(k, split.end - split.begin); ++i) {
    chosen.push_back(shares[static_cast<size_t>(i)].second);
  }
  return chosen;
}

TEST(CacheAttentionSelection, TokensOfAStepSelectTogetherAndAttendCausally) {
  constexpr int64_t kFirst = 170, kLast = 176;  // a quarter of the window
  for (const int group : {1, 4}) {
    const Layers layers = {RandomSequence(8, kLast, 2 * group, 2, 32)};
    const Sequence& s = layers[0];
    for (const auto& [k, per_head] :
         {std::pair{0, false}, {9, false}, {9, true}, {200, false}, {200, true}}) {
      SCOPED_TRACE("group " + std::to_string(group) + ", " + std::to_string(k) + " tokens" +
                   (per_head ? " per head" : ""));
      RigOptions options = SmallSplit("flat", {.tokens = k});
      options.attention.per_head = per_head;
      Rig rig(&layers, options);
      rig.Prefill(0, kFirst);
      const std::vector<float> out = rig.DecodeTogether(kFirst, kLast);
      const Split split = rig.SplitAt(kLast - 1);
      for (int h = 0; h < s.kv_heads; ++h) {
        std::vector<StepOracle> oracles;
        for (int64_t t = kFirst; t < kLast; ++t) oracles.push_back({s, s, t, h, split});
        const std::vector<int64_t> chosen = BestTogether(oracles, k);
        for (const StepOracle& oracle : oracles) {
          for (int g = 0; g < group; ++g) {
            const auto row = static_cast<int>(oracle.t - kFirst) * s.heads;
            const auto expected = oracle.Attend(g, per_head ? oracle.Best({g}, k) : chosen);
            EXPECT_LT(MaxDifference(HeadOf(out, s, row + h * group + g), expected), 1e-5)
                << "token " << oracle.t << " head " << h << " query head " << g;
          }
        }
      }
      EXPECT_EQ(rig.stats().Total().steps, s.kv_heads);
    }
  }
}

TEST(CacheAttentionSelection, TheTailJoinsForEveryTokenOfAStep) {
  const Layers layers = {RandomSequence(9, 156, 4, 2, 32)};
  const Sequence& s = layers[0];
  for (const char* policy : {"flat", "pq"}) {
    RigOptions options = SmallSplit(policy, {.tokens = 9});
    options.attention.tail = TailMode::kEstimate;
    options.codebooks = testing::WithResiduals(*testing::RandomCodebooks(layers, "4x4"), 20);
    const bool by_codes = options.policy == "pq";
    Rig rig(&layers, options);
    rig.Prefill(0, 150);
    const std::vector<float> out = rig.DecodeTogether(150, 156);
    const Split split = rig.SplitAt(155);
    const Sequence scored =
        by_codes ? testing::WithDecodedKeys(s, *options.codebooks, 0, split.begin, split.end) : s;
    for (int h = 0; h < s.kv_heads; ++h) {
      const HeadCodebook* codebook = by_codes ? &options.codebooks->head(0, h) : nullptr;
      std::vector<StepOracle> oracles;
      for (int64_t t = 150; t < 156; ++t) oracles.push_back({s, scored, t, h, split, codebook});
      const std::vector<int64_t> chosen = BestTogether(oracles, 9);
      for (const StepOracle& oracle : oracles) {
        for (int g = 0; g < s.group(); ++g) {
          const auto row = static_cast<int>(oracle.t - 150) * s.heads;
          EXPECT_LT(MaxDifference(
                        HeadOf(out, s, row + h * s.group() + g),
                        oracle.AttendWithTail(g, chosen, options.cache.n_sink, kValueBlockTokens)),
                    1e-5)
              << policy;
        }
      }
    }
  }
}

TEST(CacheAttentionSelection, AStepTakesAQuarterOfTheWindowAndFewerOfALongContext) {
  const Layers layers = {RandomSequence(1, 8, 4, 2, 32)};
  RigOptions options = SmallSplit("flat", kAll);
  EXPECT_EQ(Rig(&layers, options).attention().MaxStepTokens(0), 6);
  options.attention.sliding_window = 100;
  EXPECT_EQ(Rig(&layers, options).attention().MaxStepTokens(0), 1);
  options.attention.sliding_window = 0;
  options.cache.local_window = 1000;
  EXPECT_EQ(Rig(&layers, options).attention().MaxStepTokens(1 << 15), 64);
  EXPECT_EQ(Rig(&layers, options).attention().MaxStepTokens(1 << 20), 2);
  EXPECT_EQ(Rig(&layers, options).attention().MaxStepTokens(1 << 24), 1);
  options.cache.local_window = 1;
  EXPECT_EQ(Rig(&layers, options).attention().MaxStepTokens(0), 1);
}

TEST(CacheAttentionSelection, SelectsTheBestTokensInsideASlidingWindow) {
  ExpectOracleForAll({.tokens = 7}, TailMode::kDrop, 90);
}

TEST(CacheAttentionSelection, SelectsTheSmallestSetThatReachesTheMass) {
  for (const double mass : {0.3, 0.8, 0.95, 1.0}) {
    SCOPED_TRACE("mass " + std::to_string(mass));
    // All of the mass: rounding decides how many tokens without weight join.
    if (mass < 1) ExpectOracleForAll({.mass = mass}, TailMode::kDrop);
    for (const bool per_head : {false, true}) {
      const Layers layers = {RandomSequence(2, 300, 8, 2, 64)};
      RigOptions options = SmallSplit("flat", {.mass = mass});
      options.attention.per_head = per_head;
      options.attention.shadow_every = 1;
      Rig rig(&layers, options);
      rig.Prefill(0, 299);
      rig.Decode(299);
      EXPECT_GE(rig.stats().Total().mass / 2, mass - 1e-5);
    }
  }
}

TEST(CacheAttentionSelection, TheTailJoinsByScoreMeanOfItsPageAndLikeTheChosen) {
  for (const int64_t k : {0, 9, 60, 1000}) {
    SCOPED_TRACE(std::to_string(k) + " tokens");
    ExpectOracleForAll({.tokens = k}, TailMode::kEstimate);
  }
}

// Where some are chosen and stand for a part of the rest, all of them.
TEST(CacheAttentionSelection, TheTailIsExactWhereBlocksHoldOneValue) {
  for (const int n_sink : {0, 4, 21}) {
    for (const int64_t k : {0, 10}) {
      const int64_t block = k == 0 ? kValueBlockTokens : 176;
      Layers layers = {RandomSequence(3, 200, 4, 2, 32)};
      Sequence& s = layers[0];
      for (int64_t t = n_sink; t < 176; ++t) {  // neither sinks nor window
        const int64_t first = std::max<int64_t>(n_sink, t / block * block);
        for (int h = 0; h < 2; ++h) std::copy_n(s.value(first, h), 32, s.value(t, h));
      }
      RigOptions options = SmallSplit("flat", {.tokens = k});
      options.cache.n_sink = n_sink;
      options.attention.tail = TailMode::kEstimate;
      Rig rig(&layers, options);
      rig.Prefill(0, 199);
      EXPECT_LT(MaxDifference(rig.Decode(199), ExactRow(s, 199)), 1e-5);
    }
  }
}

TEST(CacheAttentionSelection, TheEstimateIsBetterThanDropping) {
  const Layers layers = {RandomSequence(4, 400, 8, 2, 64)};
  RigOptions options = SmallSplit("pq", {.tokens = 20});
  options.codebooks = testing::RandomCodebooks(layers, "32x8");
  options.attention.shadow_every = 1;
  double error[2];
  for (const TailMode tail : {TailMode::kDrop, TailMode::kEstimate}) {
    options.attention.tail = tail;
    Rig rig(&layers, options);
    rig.Prefill(0, 380);
    for (int64_t t = 380; t < 400; ++t) rig.Decode(t);
    error[tail == TailMode::kEstimate ? 1 : 0] = rig.stats().Total().output_error / 40;
  }
  EXPECT_GT(error[1], 0);
  EXPECT_LT(error[1], 0.7 * error[0]);
}

TEST(CacheAttentionSelection, EqualScoresGoToTheLowerPosition) {
  Layers layers = {RandomSequence(5, 150, 4, 2, 16)};
  Sequence& s = layers[0];
  for (int64_t t = 4; t < 126; ++t) {
    for (int h = 0; h < 2; ++h) std::copy_n(s.key(4, h), 16, s.key(t, h));
  }
  for (const char* policy : {"flat", "pq"}) {
    for (const bool per_head : {false, true}) {
      RigOptions options = SmallSplit(policy, {.tokens = 6});
      options.attention.per_head = per_head;
      options.codebooks = testing::RandomCodebooks(layers, "4x4");
      Rig rig(&layers, options);
      rig.Prefill(0, 149);
      const std::vector<int64_t> lowest = {4, 5, 6, 7, 8, 9};
      const auto expected = ExactRow(s, 149, rig.SplitAt(149).Keep(150, lowest));
      EXPECT_LT(MaxDifference(rig.Decode(149), expected), 1e-5);
    }
  }
}

// Of the candidates all are worse than nothing but a few, which have an inner product of zero.
TEST(CacheAttentionSelection, AnInnerProductOfZeroIsALegalKey) {
  Layers layers = {RandomSequence(6, 120, 1, 1, 8)};
  Sequence& s = layers[0];
  std::vector<int64_t> zeros;
  for (int64_t t = 0; t < 120; ++t) {
    for (int d = 0; d < 8; ++d) {
      if (d >= 4) s.queries[static_cast<size_t>(t * 8 + d)] = 0;
      if (d < 4 && t % 11 == 6) s.key(t, 0)[d] = 0;
      if (d < 4 && t % 11 != 6) {
        s.key(t, 0)[d] = s.query(119, 0)[d] > 0 ? -0.1f : 0.1f;
      }
    }
    if (t % 11 == 6 && t < 96) zeros.push_back(t);
  }
  RigOptions options = SmallSplit("flat", {.tokens = static_cast<int64_t>(zeros.size())});
  Rig rig(&layers, options);
  rig.Prefill(0, 119);
  const auto expected = ExactRow(s, 119, rig.SplitAt(119).Keep(120, zeros));
  EXPECT_LT(MaxDifference(rig.Decode(119), expected), 1e-5);
}

// The same with every KV head repeated for each query head of its group.
Sequence Repeated(const Sequence& s) {
  Sequence r = s;
  r.kv_heads = s.heads;
  r.keys.resize(r.queries.size());
  r.values.resize(r.queries.size());
  for (int64_t t = 0; t < s.tokens; ++t) {
    for (int h = 0; h < s.heads; ++h) {
      std::copy_n(s.key(t, h / s.group()), s.dim, r.key(t, h));
      std::copy_n(s.value(t, h / s.group()), s.dim, r.value(t, h));
    }
  }
  return r;
}

TEST(CacheAttentionSelection, GroupedHeadsEqualRepeatedOnes) {
  for (const int group : {1, 4, 7}) {
    const Layers grouped = {RandomSequence(7, 150, 2 * group, 2, 32)};
    const Layers repeated = {Repeated(grouped[0])};
    RigOptions own = SmallSplit("flat", {.tokens = 10});
    own.attention.per_head = true;
    own.attention.tail = TailMode::kEstimate;
    RigOptions same = SmallSplit("flat", {});
    same.attention.policy = std::make_shared<RulePolicy>(testing::EveryThird);
    for (const RigOptions& options : {own, same}) {
      Rig a(&grouped, options), b(&repeated, options);
      EXPECT_LT(MaxDifference(a.Prefill(0, 145), b.Prefill(0, 145)), 1e-5);
      for (int64_t t = 145; t < 150; ++t) {
        EXPECT_LT(MaxDifference(a.Decode(t), b.Decode(t)), 1e-6);
      }
    }
  }
}

TEST(CacheAttentionSelection, AGroupOfEqualQueriesSelectsAsOneHead) {
  Layers grouped = {RandomSequence(8, 150, 6, 2, 32)};
  Layers single = {RandomSequence(8, 150, 2, 2, 32)};
  single[0].keys = grouped[0].keys;
  single[0].values = grouped[0].values;
  for (int64_t t = 0; t < 150; ++t) {
    for (int h = 0; h < 6; ++h) {
      std::copy_n(single[0].query(t, h / 3), 32,
                  &grouped[0].queries[static_cast<size_t>((t * 6 + h) * 32)]);
    }
  }
  for (const SelectionBudget& budget :
       {SelectionBudget{.tokens = 9}, SelectionBudget{.mass = .6}}) {
    Rig a(&grouped, SmallSplit("flat", budget)), b(&single, SmallSplit("flat", budget));
    a.Prefill(0, 149);
    b.Prefill(0, 149);
    const std::vector<float> out = a.Decode(149), expected = b.Decode(149);
    for (int h = 0; h < 6; ++h) {
      EXPECT_LT(MaxDifference(HeadOf(out, grouped[0], h), HeadOf(expected, single[0], h / 3)),
                1e-6);
    }
    EXPECT_EQ(a.stats().Total().selected, b.stats().Total().selected);
  }
}

TEST(CacheAttentionSelection, EveryTokenIsReportedOnce) {
  for (const int64_t tokens : {1, 10, 28, 29, 100, 200}) {
    for (const int64_t sliding_window : {0, 10, 60, 190}) {
      for (const int n_sink : {0, 4, 50}) {
        for (const bool per_head : {false, true}) {
          const Layers layers = {RandomSequence(9, tokens, 4, 2, 16)};
          RigOptions options = SmallSplit("flat", {.tokens = 13});
          options.cache.n_sink = n_sink;
          options.attention.per_head = per_head;
          options.attention.tail = TailMode::kEstimate;
          options.attention.sliding_window = sliding_window;
          Rig rig(&layers, options);
          if (tokens > 1) rig.Prefill(0, tokens - 1);
          rig.Decode(tokens - 1);
          const HeadStats stats = rig.stats().Total();
          const Split split = rig.SplitAt(tokens - 1);
          const double candidates = static_cast<double>(split.end - split.begin);
          const double visible = static_cast<double>(tokens - split.visible);
          EXPECT_EQ(stats.always, 2 * (visible - candidates));
          EXPECT_EQ(stats.selected, 2 * std::min(13.0, candidates));
          EXPECT_EQ(stats.scored, 2 * candidates);
          EXPECT_EQ(stats.always + stats.selected + stats.estimated, 2 * visible);
        }
      }
    }
  }
}

TEST(CacheAttentionSelection, MissedMassIsWhatWasNotAttended) {
  const Layers layers = {RandomSequence(10, 150, 4, 2, 32)};
  for (const TailMode tail : {TailMode::kDrop, TailMode::kEstimate}) {
    for (const int64_t k : {0, 12, 1000}) {
      RigOptions options = SmallSplit("flat", {.tokens = k});
      options.attention.tail = tail;
      options.attention.shadow_every = 1;
      Rig rig(&layers, options);
      rig.Prefill(0, 149);
      rig.Decode(149);
      const HeadStats stats = rig.stats().Total();
      EXPECT_EQ(stats.mass_steps, 4);
      EXPECT_NEAR(stats.missed_mass / 4, 1 - stats.mass / 2, 1e-5);
    }
  }
}

TEST(CacheAttentionSelection, NotFiniteKeysMakeTheirHeadExact) {
  const Layers clean = {RandomSequence(11, 150, 4, 2, 16)};
  Layers layers = clean;
  Sequence& s = layers[0];
  s.key(60, 1)[2] = -INFINITY;
  s.key(75, 1)[2] = -INFINITY;
  for (int64_t t = 76; t < 150; ++t) {  // logits of those two keys are -infinity
    for (int h = 2; h < 4; ++h) {
      float& x = s.queries[static_cast<size_t>((t * 4 + h) * 16 + 2)];
      x = std::abs(x);
    }
  }
  for (const char* policy : {"flat", "pq"}) {
    for (const bool per_head : {false, true}) {
      for (const TailMode tail : {TailMode::kDrop, TailMode::kEstimate}) {
        RigOptions options = SmallSplit(policy, {.tokens = 5});
        options.codebooks = testing::RandomCodebooks(clean, "4x8");
        options.attention.per_head = per_head;
        options.attention.tail = tail;
        options.attention.shadow_every = 1;
        Rig rig(&layers, options), clean_rig(&clean, options);
        rig.Prefill(0, 140);
        clean_rig.Prefill(0, 140);
        for (int64_t t = 140; t < 150; ++t) {
          const std::vector<float> out = rig.Decode(t), other = clean_rig.Decode(t);
          EXPECT_TRUE(std::equal(out.begin(), out.begin() + 32, other.begin()));
          std::vector<bool> keep(static_cast<size_t>(t + 1), true);
          keep[60] = keep[75] = false;
          const auto expected = ExactHead(s, t, 1, keep);
          EXPECT_LT(MaxDifference(std::span(out).subspan(32), expected), 1e-5) << policy;
        }
      }
    }
  }
}

TEST(CacheAttentionSelection, ANaNKeyIsFeltUntilTheSlidingWindowPassesIt) {
  Layers layers = {RandomSequence(12, 120, 2, 1, 16)};
  layers[0].key(60, 0)[0] = NAN;
  RigOptions options = SmallSplit("flat", {.tokens = 5});
  options.attention.sliding_window = 50;
  Rig rig(&layers, options);
  rig.Prefill(0, 90);
  for (int64_t t = 90; t < 120; ++t) {
    const std::vector<float> out = rig.Decode(t);
    if (t < 110) {
      EXPECT_TRUE(std::ranges::all_of(out, [](float x) { return std::isnan(x); }));
    } else {
      EXPECT_LT(MaxDifference(out, ExactRow(layers[0], t, {}, 50)), 1e-5);
    }
  }
}

}  // namespace
}  // namespace pqcache::attention
