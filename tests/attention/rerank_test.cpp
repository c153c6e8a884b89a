// pq:rerank=C: over-fetch by codes, ranked once more by exact keys.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/attention_fixture.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/selection_oracle.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using namespace pqcache::testing;

using Layers = std::vector<Sequence>;

struct Case {
  std::string name;
  int64_t tokens;
  int group;
  bool per_head;
  TailMode tail;
  bool away;  // no page that could be read in place
};

class Rerank : public ::testing::TestWithParam<Case> {
 protected:
  // Outputs of a step at the last token, with a shadow step beside it.
  std::vector<float> Step(const Layers& layers, const std::string& policy, int64_t k,
                          HeadStats* stats) {
    const Case& c = GetParam();
    RigOptions options = SmallSplit(policy, {.tokens = k});
    options.attention.per_head = c.per_head;
    options.attention.tail = c.tail;
    options.attention.shadow_every = 1;
    options.codebooks = WithResiduals(*RandomCodebooks(layers, "4x4"), 20);
    ForwardingStore away;
    if (c.away) options.store = &away;
    Rig rig(&layers, options);
    rig.Prefill(0, c.tokens - 1);
    const std::vector<float> out = rig.Decode(c.tokens - 1);
    *stats = rig.stats().Total();
    return out;
  }
};

TEST_P(Rerank, OfAllCandidatesItIsTheExactSelection) {
  const Case& c = GetParam();
  const Layers layers = {RandomSequence(3, c.tokens, c.group, 1, 32)};
  const int64_t k = c.tokens / 16 + 1;
  HeadStats flat, reranked, plain;
  const std::vector<float> expected = Step(layers, "flat", k, &flat);
  // Of many candidates the rest joins with one mean value, under flat with one for 64 tokens.
  const double accepted = c.tail == TailMode::kEstimate && c.tokens > 2048 ? 0.05 : 1e-5;
  EXPECT_LT(MaxDifference(Step(layers, "pq:rerank=16", k, &reranked), expected), accepted);
  EXPECT_DOUBLE_EQ(reranked.selected, flat.selected);
  EXPECT_NEAR(reranked.missed_mass, flat.missed_mass, 1e-4 * c.group);
  EXPECT_NEAR(reranked.recall, 1.0, 1e-12);
  EXPECT_GT(MaxDifference(Step(layers, "pq", k, &plain), expected), 1e-3);
}

TEST_P(Rerank, MoreCandidatesFindMore) {
  const Case& c = GetParam();
  const Layers layers = {RandomSequence(4, c.tokens, c.group, 1, 32)};
  std::vector<double> recalls;
  for (const char* policy : {"pq", "pq:rerank=2", "pq:rerank=6"}) {
    HeadStats stats;
    Step(layers, policy, c.tokens / 40, &stats);
    EXPECT_DOUBLE_EQ(stats.selected, static_cast<double>(c.tokens / 40));
    recalls.push_back(stats.recall);
  }
  EXPECT_LE(recalls[0], recalls[1]);
  EXPECT_LT(recalls[0] + 0.1, recalls[2]);
}

INSTANTIATE_TEST_SUITE_P(
    Steps, Rerank,
    ::testing::Values(Case{"few", 500, 4, false, TailMode::kDrop, false},
                      Case{"few_per_head", 500, 4, true, TailMode::kDrop, false},
                      Case{"many", 4000, 4, false, TailMode::kDrop, true},
                      Case{"many_per_head", 4000, 3, true, TailMode::kDrop, true},
                      Case{"tail", 1500, 2, false, TailMode::kEstimate, false},
                      Case{"many_tail_away", 3000, 3, false, TailMode::kEstimate, true},
                      Case{"tail_per_head", 500, 2, true, TailMode::kEstimate, true}),
    [](const auto& test) { return test.param.name; });

// Found candidates rank by their exact share of a query head's mass, of which what was not found is
// estimated with what its scores lack.
TEST(RerankTogether, TheMassOfWhatIsNotFoundCounts) {
  const Layers layers = {RandomSequence(5, 500, 4, 1, 32)};
  const Sequence& s = layers[0];
  const int64_t t = 499;
  const size_t k = 20;
  RigOptions options = SmallSplit("pq:rerank=2", {.tokens = k});
  options.codebooks = WithResiduals(*RandomCodebooks(layers, "4x4"), 200);
  Rig rig(&layers, options);
  rig.Prefill(0, t);
  const std::vector<float> out = rig.Decode(t);
  const Split split = rig.SplitAt(t);
  const Sequence scored = WithDecodedKeys(s, *options.codebooks, 0, split.begin, split.end);
  const StepOracle oracle{s, scored, t, 0, split, &options.codebooks->head(0, 0)};
  const std::vector<int64_t> found = oracle.Best(oracle.AllHeads(), 2 * k);
  std::vector<std::pair<double, int64_t>> ranked;  // negative, so that the best comes first
  for (const int64_t token : found) ranked.emplace_back(0.0, token);
  for (int g = 0; g < s.group(); ++g) {
    const auto [attended, left] = oracle.MassesOf(g, found);
    const double candidates = attended - oracle.AlwaysMass(g) + left;
    for (auto& [share, token] : ranked) {
      share = std::min(share, -std::exp(oracle.Logit(s, g, token)) / candidates);
    }
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<int64_t> chosen;
  for (size_t i = 0; i < k; ++i) chosen.push_back(ranked[i].second);
  for (int g = 0; g < s.group(); ++g) {
    const auto first = out.begin() + g * s.dim;
    const std::vector<float> of_head(first, first + s.dim);
    EXPECT_LT(MaxDifference(of_head, oracle.Attend(g, chosen)), 1e-5) << g;
  }
}

// A cache of 1,000 tokens whose codebook says that keys lie `residual` times as far from their
// codes as they do.
std::vector<float> StepWithResidual(const Layers& layers, double residual, bool widen,
                                    const std::string& policy, HeadStats* stats) {
  RigOptions options = SmallSplit(policy, {.tokens = 30});
  options.attention.widen_misfit = widen;
  options.attention.shadow_every = 1;
  const auto plain = RandomCodebooks(layers, "4x4");
  auto set = std::make_shared<CodebookSet>(*plain);
  std::vector<uint8_t> codes(static_cast<size_t>(layers[0].tokens) * 4);
  double sum = 0;
  plain->heads[0].Encode(0, layers[0].tokens, layers[0].keys.data(), codes.data(), &sum);
  set->heads[0] =
      set->heads[0]
          .WithResidual(static_cast<float>(residual * sum / static_cast<double>(layers[0].tokens)))
          .value();
  options.codebooks = set;
  Rig rig(&layers, options);
  rig.Prefill(0, layers[0].tokens - 1);
  const std::vector<float> out = rig.Decode(layers[0].tokens - 1);
  *stats = rig.stats().Total();
  return out;
}

TEST(WidenMisfit, RanksByExactKeysWhereTheCodebookDoesNotFit) {
  const Layers layers = {RandomSequence(3, 1000, 2, 1, 32)};
  HeadStats stats, expected;
  const std::vector<float> plain = StepWithResidual(layers, 1, false, "pq", &expected);
  const std::vector<float> reranked =
      StepWithResidual(layers, 0.5, false, "pq:rerank=4", &expected);
  EXPECT_EQ(StepWithResidual(layers, 1, true, "pq", &stats), plain);  // it fits
  EXPECT_EQ(stats.ranked, 0);
  EXPECT_EQ(StepWithResidual(layers, 0.5, true, "pq", &stats), reranked);
  EXPECT_EQ(stats.ranked, 4 * 30);
  EXPECT_EQ(stats.recall, expected.recall);
  EXPECT_EQ(StepWithResidual(layers, 0.5, false, "pq", &stats), plain);
  // What over-fetches more already, or has no codes to mistrust, stays as it is.
  EXPECT_EQ(StepWithResidual(layers, 0.5, true, "pq:rerank=8", &stats),
            StepWithResidual(layers, 0.5, false, "pq:rerank=8", &expected));
  EXPECT_EQ(stats.ranked, 8 * 30);
  EXPECT_EQ(StepWithResidual(layers, 0.5, true, "flat", &stats),
            StepWithResidual(layers, 1, false, "flat", &expected));
  EXPECT_EQ(stats.ranked, 0);
}

TEST(RerankErrors, ABudgetOfMassIsRefused) {
  const Layers layers = {RandomSequence(3, 100, 2, 1, 32)};
  RigOptions options = SmallSplit("pq:rerank=2", {.mass = 0.9});
  options.codebooks = RandomCodebooks(layers, "4x4");
  options.cache.layers = 1;
  options.cache.kv_heads = 1;
  options.cache.page.dim = 32;
  options.cache.context = NewContextId({}, FingerprintOf("model"));
  options.attention.heads = 2;
  options.attention.policy = CreatePolicy(options.policy).value();
  ThreadPool pool(1);
  storage::MemoryPageStore store(storage::kNoMemoryLimit);
  const auto cache = KvCache::Create(options.cache, options.codebooks, &store, &pool);
  ASSERT_OK(cache);
  ExpectError(CacheAttention::Create(options.attention, cache->get(), &pool),
              StatusCode::kInvalidArgument,
              "which the policy does not take, expected tokens or a ratio");
}

}  // namespace
}  // namespace pqcache::attention
