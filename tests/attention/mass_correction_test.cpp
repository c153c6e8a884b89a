#include "attention/mass_correction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/support/attention_fixture.h"
#include "tests/support/random_data.h"
#include "tests/support/selection_oracle.h"

namespace pqcache::attention {
namespace {

using namespace pqcache::testing;

TEST(MassCorrection, IsOfTheMassOfItsStepsTheNewestCountingMost) {
  MassCorrection correction(2);
  EXPECT_EQ(correction.nats(0, 0.7f), 0.7f);
  correction.Observe(0, 0.3, 0.2);
  EXPECT_FLOAT_EQ(correction.nats(0, 0.7f), std::log(1.5f));
  EXPECT_EQ(correction.nats(1, 0.7f), 0.7f);
  correction.Observe(0, 0.1, 0.4);
  EXPECT_FLOAT_EQ(correction.nats(0, 0), static_cast<float>(std::log(0.355 / 0.57)));
  for (int i = 0; i < 200; ++i) correction.Observe(0, 0.5, 0.25);
  EXPECT_FLOAT_EQ(correction.nats(0, 0), std::log(2.0f));
}

// Random keys, and scores that differ from their logits.
struct World {
  int queries, dim = 16;
  int64_t n = 90;
  std::vector<float> keys, values, query, scores, always;
  std::vector<uint8_t> rows;

  explicit World(int q) : queries(q) {
    keys = RandomNormals(n * dim, 1);
    query = RandomNormals(queries * dim, 2, 2);
    always = RandomNormals(queries, 3);
    const std::vector<float> noise = RandomNormals(queries * n, 4, 0.7f);
    for (int i = 0; i < queries; ++i) {
      for (int64_t t = 0; t < n; ++t) {
        scores.push_back(static_cast<float>(Logit(i, t)) + noise[static_cast<size_t>(i * n + t)] -
                         0.3f * static_cast<float>(i));
      }
    }
  }
  double Logit(int q, int64_t t) const {
    const float* key = keys.data() + t * dim;
    return std::inner_product(key, key + dim, query.data() + q * dim, 0.0) / 4;
  }
  const float* Score(int q) const { return scores.data() + q * n; }
  const uint8_t* Row(int64_t t) const {
    return reinterpret_cast<const uint8_t*>(keys.data() + t * dim);
  }

  // Of the queries that share a list: the quarter of it with the smallest shares in all.
  std::vector<int64_t> Last(const std::vector<int64_t>& list, int first, int count) const {
    std::vector<std::pair<double, int64_t>> ranks;
    for (const int64_t t : list) {
      double shares = 0;
      for (int q = first; q < first + count; ++q) {
        double sum = std::exp(double{always[static_cast<size_t>(q)]});
        for (const int64_t other : list) sum += std::exp(double{Score(q)[other]});
        shares += std::exp(double{Score(q)[t]}) / sum;
      }
      ranks.emplace_back(shares, t);
    }
    std::sort(ranks.begin(), ranks.end());
    std::vector<int64_t> last;
    for (size_t i = 0; i < (ranks.size() + 3) / 4; ++i) last.push_back(ranks[i].second);
    return last;
  }
  // What the sample tells of some queries, as shares of the mass that their scores know of.
  void Observe(const std::vector<int>& of_head, const std::vector<int64_t>& list,
               const std::vector<int64_t>& sample, MassCorrection* correction) const {
    double exact = 0, coded = 0;
    for (const int q : of_head) {
      double known = std::exp(double{always[static_cast<size_t>(q)]});
      for (const int64_t t : list) known += std::exp(double{Score(q)[t]});
      for (const int64_t t : sample) {
        exact += std::min(1.0, std::exp(Logit(q, t)) / known);
        coded += std::exp(double{Score(q)[t]}) / known;
      }
    }
    correction->Observe(of_head[0] % correction->group(), exact, coded);
  }
};

std::vector<int64_t> EveryNth(int64_t step, int64_t n) {
  std::vector<int64_t> list;
  for (int64_t t = step / 2; t < n; t += step) list.push_back(t);
  return list;
}

// Rows come in three parts, as pages do.
void Sample(const World& w, const std::vector<std::vector<int64_t>>& lists,
            MassCorrection* correction) {
  MassSample sample;
  sample.Begin({.queries = w.queries,
                .query = w.query.data(),
                .scale = 0.25f,
                .format = {DType::kF32, w.dim, 0},
                .scores = w.scores.data(),
                .candidates = w.n,
                .lists = lists,
                .always_lse = w.always});
  for (size_t part = 0; part < 3; ++part) {
    for (size_t list = 0; list < lists.size(); ++list) {
      const size_t first = lists[list].size() * part / 3;
      const size_t end = lists[list].size() * (part + 1) / 3;
      std::vector<const uint8_t*> rows;
      for (size_t i = first; i < end; ++i) rows.push_back(w.Row(lists[list][i]));
      sample.Add(list, first, rows);
    }
  }
  sample.Finish(correction);
}

TEST(MassSample, OfAListForAllQueries) {
  const World w(6);  // three tokens of two query heads
  const std::vector<int64_t> list = EveryNth(2, w.n);
  MassCorrection correction(2), expected(2);
  for (int step = 0; step < 2; ++step) {
    Sample(w, {list}, &correction);
    for (const int g : {0, 1}) w.Observe({g, g + 2, g + 4}, list, w.Last(list, 0, 6), &expected);
  }
  for (int g = 0; g < 2; ++g) {
    EXPECT_NEAR(correction.nats(g, 0), expected.nats(g, 0), 1e-4) << g;
    EXPECT_GT(std::abs(expected.nats(g, 0)), 0.05);
  }
}

TEST(MassSample, OfAListForEachQuery) {
  const World w(3);
  const std::vector<std::vector<int64_t>> lists = {EveryNth(2, w.n), EveryNth(3, w.n), {7}};
  MassCorrection correction(3), expected(3);
  Sample(w, lists, &correction);
  for (int q = 0; q < 3; ++q) {
    const std::vector<int64_t>& list = lists[static_cast<size_t>(q)];
    w.Observe({q}, list, w.Last(list, q, 1), &expected);
    EXPECT_NEAR(correction.nats(q, 0), expected.nats(q, 0), 1e-4) << q;
  }
}

// However far a key lies above what its code says.
TEST(MassSample, NoTokenHasMoreThanAllOfTheMass) {
  World w(1);
  for (int d = 0; d < w.dim; ++d) w.keys[static_cast<size_t>(7 * w.dim + d)] = 500 * w.query[d];
  MassCorrection correction(1);
  Sample(w, {{7}}, &correction);
  const double known = std::exp(double{w.always[0]}) + std::exp(double{w.Score(0)[7]});
  EXPECT_NEAR(correction.nats(0, 0), std::log(known) - w.Score(0)[7], 1e-4);
}

TEST(MassSample, OfNothingLearnsNothing) {
  const World w(2);
  MassCorrection correction(2);
  Sample(w, {{}}, &correction);
  Sample(w, {{}, {}}, &correction);
  EXPECT_EQ(correction.nats(0, 0), 0);
  EXPECT_EQ(correction.nats(1, 0), 0);
}

// Centroids become the means of the keys that they stand for, as training makes them.
std::shared_ptr<const CodebookSet> WithMeans(const CodebookSet& from, const Sequence& s) {
  auto set = std::make_shared<CodebookSet>(from);
  HeadCodebook& head = set->heads[0];
  const PqShape shape = head.shape();
  std::vector<uint8_t> codes(static_cast<size_t>(s.tokens * shape.subspaces));
  for (int round = 0; round < 8; ++round) {
    head.Encode(0, s.tokens, s.keys.data(), codes.data());
    std::vector<float> centroids(head.centroids().begin(), head.centroids().end());
    for (int c = 0; c < shape.subspaces * shape.centroids(); ++c) {
      const int sub = c / shape.centroids();
      for (int d = 0; d < shape.sub_dim(); ++d) {
        double sum = 0, count = 0;
        for (int64_t t = 0; t < s.tokens; ++t) {
          if (codes[static_cast<size_t>(t * shape.subspaces + sub)] != c % shape.centroids())
            continue;
          sum += s.key(t, 0)[sub * shape.sub_dim() + d];
          ++count;
        }
        if (count > 0) {
          centroids[static_cast<size_t>(c * shape.sub_dim() + d)] = static_cast<float>(sum / count);
        }
      }
    }
    head = HeadCodebook::Create({.shape = shape, .centroids = centroids}).value();
  }
  return set;
}

// Coarse codes hide some of the mass: a step that believes them attends to 0.60 here.
TEST(MassCorrection, MakesABudgetOfMassHoldWithCoarseCodes) {
  const int64_t tokens = 1000, decoded = 60, warm = 20;
  for (const bool per_head : {true, false}) {
    const std::vector<Sequence> layers = {RandomSequence(5, tokens, 2, 1, 16)};
    RigOptions options = SmallSplit("pq", {.mass = 0.75});
    options.cache.local_window = 350;
    options.attention.per_head = per_head;
    options.attention.shadow_every = 1;
    options.codebooks = WithMeans(*RandomCodebooks(layers, "2x4", false), layers[0]);
    Rig rig(&layers, options);
    rig.Prefill(0, tokens - decoded);
    double mass = 0, estimated = 0;
    HeadStats before;
    for (int64_t t = tokens - decoded; t < tokens; ++t) {
      rig.Decode(t);
      const HeadStats now = rig.stats().Total();
      if (t >= tokens - decoded + warm) {
        mass += now.mass - before.mass;
        estimated += 1 - (now.missed_mass - before.missed_mass) / 2;
      }
      before = now;
    }
    mass /= static_cast<double>(decoded - warm);
    estimated /= static_cast<double>(decoded - warm);
    EXPECT_NEAR(mass, 0.75, 0.04) << per_head;
    EXPECT_NEAR(estimated, mass, 0.04) << per_head;
  }
}

// A cache with coarse codes, decoding under a budget of mass.
struct CoarseRig {
  std::vector<Sequence> layers = {RandomSequence(6, 1000, 2, 1, 16)};
  RigOptions options;
  std::unique_ptr<Rig> rig;

  CoarseRig(SelectionBudget budget, TailMode tail) : options(SmallSplit("pq", budget)) {
    options.cache.local_window = 350;
    options.attention.tail = tail;
    options.codebooks = WithMeans(*RandomCodebooks(layers, "2x4", false), layers[0]);
    rig = std::make_unique<Rig>(&layers, options);
    rig->Prefill(0, 940);
  }
  float nats(int g) const { return rig->attention().memory()[0].correction.nats(g, 0); }
  Sequence Scored(const Split& split) const {
    return WithDecodedKeys(layers[0], *options.codebooks, 0, split.begin, split.end);
  }
};

// Tokens of a step, each by what is known of its query head.
TEST(MassCorrection, CorrectsStepsOfSeveralTokens) {
  CoarseRig coarse({.mass = 0.75}, TailMode::kDrop);
  for (int64_t t = 940; t < 960; ++t) coarse.rig->Decode(t);
  const double nats[2] = {coarse.nats(0), coarse.nats(1)};
  EXPECT_GT(std::abs(nats[0] - nats[1]), 0.02);
  const double before = coarse.rig->stats().Total().selected;
  coarse.rig->DecodeTogether(960, 964);
  const Split split = coarse.rig->SplitAt(963);
  const Sequence scored = coarse.Scored(split);
  std::vector<double> shares(static_cast<size_t>(split.end - split.begin), 0.0);
  double reached = 0;
  for (int64_t t = 960; t < 964; ++t) {
    const StepOracle oracle{coarse.layers[0], scored, t, 0, split};
    for (int g = 0; g < 2; ++g) {
      const double always = oracle.AlwaysMass(g) * std::exp(-nats[g]);
      const double total = always + oracle.CandidateMass(g);
      reached += always / total / 8;
      for (int64_t i = split.begin; i < split.end; ++i) {
        shares[static_cast<size_t>(i - split.begin)] +=
            std::exp(oracle.Logit(scored, g, i)) / total / 8;
      }
    }
  }
  std::sort(shares.rbegin(), shares.rend());
  size_t expected = 0;
  for (; reached < 0.75; ++expected) reached += shares[expected];
  EXPECT_GT(expected, 40u);
  EXPECT_NEAR(coarse.rig->stats().Total().selected - before, static_cast<double>(expected), 1);
}

// What is left joins with its corrected mass.
TEST(MassCorrection, CorrectsTheTail) {
  CoarseRig coarse({.mass = 0.75}, TailMode::kEstimate);
  const std::vector<float> out = coarse.rig->Decode(940);
  const Split split = coarse.rig->SplitAt(940);
  const Sequence scored = coarse.Scored(split);
  const StepOracle oracle{coarse.layers[0], scored, 940, 0, split};
  const std::vector<int64_t> chosen = oracle.Reaching({0, 1}, 0.75, 32);
  for (int g = 0; g < 2; ++g) {
    const std::vector<double> with_tail =
        oracle.AttendWithTail(g, chosen, coarse.options.cache.n_sink, kValueBlockTokens);
    std::vector<double> expected = oracle.Attend(g, chosen);
    const auto [attended, left] = oracle.MassesOf(g, chosen);
    const double factor = std::exp(double{coarse.nats(g)});
    EXPECT_GT(std::abs(factor - 1), 0.05);
    for (size_t d = 0; d < expected.size(); ++d) {
      const double of_tail = with_tail[d] * (attended + left) - expected[d] * attended;
      expected[d] = (expected[d] * attended + factor * of_tail) / (attended + factor * left);
    }
    const std::span<const float> found(out.data() + g * 16, 16);
    EXPECT_LT(MaxDifference(found, expected), 1e-4) << g;
    EXPECT_GT(MaxDifference(found, with_tail), 1e-3) << g;
  }
}

TEST(MassCorrection, NumbersBesideAMassAreItsMost) {
  for (const int64_t tokens : {5, 40}) {
    CoarseRig coarse({.tokens = tokens, .mass = 0.99}, TailMode::kDrop);
    coarse.rig->Decode(940);
    EXPECT_EQ(coarse.rig->stats().Total().selected, static_cast<double>(tokens));
  }
  // The least that codes are checked by.
  CoarseRig easy({.mass = 0.01}, TailMode::kDrop);
  easy.rig->Decode(940);
  EXPECT_EQ(easy.rig->stats().Total().selected, 32);
}

}  // namespace
}  // namespace pqcache::attention
