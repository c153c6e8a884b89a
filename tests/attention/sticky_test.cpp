// pq:sticky=S: what the last step selected is ranked with what this one finds, by exact keys.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/support/attention_fixture.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/selection_oracle.h"

namespace pqcache::attention {
namespace {

using namespace pqcache::testing;

constexpr int64_t kTokens = 400;
constexpr int64_t kSteps = 12;
constexpr int64_t kK = 10;

struct Case {
  std::string name;
  int group;
  bool per_head;
  int64_t sliding_window = 0;
};

class Sticky : public ::testing::TestWithParam<Case> {
 protected:
  RigOptions Options(const std::string& policy) const {
    RigOptions options = SmallSplit(policy, {.tokens = kK});
    options.attention.per_head = GetParam().per_head;
    options.attention.shadow_every = 1;
    options.attention.sliding_window = GetParam().sliding_window;
    options.codebooks = codebooks_;
    return options;
  }
  // Outputs of the last steps, one after the other.
  std::vector<std::vector<float>> Decode(Rig* rig) const {
    rig->Prefill(0, kTokens - kSteps);
    std::vector<std::vector<float>> out;
    for (int64_t t = kTokens - kSteps; t < kTokens; ++t) out.push_back(rig->Decode(t));
    return out;
  }

  // The rule in double precision: of this step's best by code and the last step's selection, the
  // best by exact logit, those of the last step `nats` ahead.
  std::vector<std::vector<double>> Expected(double nats) const {
    const Sequence& s = layers_[0];
    const int lists = GetParam().per_head ? s.group() : 1;
    std::vector<std::vector<int64_t>> last(static_cast<size_t>(lists));
    std::vector<std::vector<double>> out;
    for (int64_t t = kTokens - kSteps; t < kTokens; ++t) {
      const Split split(t + 1, 4, 24, GetParam().sliding_window);
      const Sequence coded = WithDecodedKeys(s, *codebooks_, 0, split.begin, split.end);
      const StepOracle by_code{s, coded, t, 0, split}, exact{s, s, t, 0, split};
      std::vector<double> row;
      for (int list = 0; list < lists; ++list) {
        const std::vector<int> heads =
            GetParam().per_head ? std::vector<int>{list} : exact.AllHeads();
        std::vector<int64_t>& selected = last[static_cast<size_t>(list)];
        std::erase_if(selected, [&](int64_t i) { return i < split.begin; });
        std::vector<int64_t> candidates = by_code.Best(heads, kK);
        candidates.insert(candidates.end(), selected.begin(), selected.end());
        std::sort(candidates.begin(), candidates.end());
        candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
        // Shares of the mass of all candidates: exact ones of those at hand, of the others by code.
        std::map<int64_t, double> worth;
        for (const int head : heads) {
          double total = 0;
          for (int64_t i = split.begin; i < split.end; ++i) {
            const bool at_hand = std::binary_search(candidates.begin(), candidates.end(), i);
            total += std::exp(at_hand ? exact.Logit(s, head, i) : by_code.Logit(coded, head, i));
          }
          for (const int64_t i : candidates) {
            const bool favoured = std::binary_search(selected.begin(), selected.end(), i);
            const double share = exact.Logit(s, head, i) + (favoured ? nats : 0) - std::log(total);
            worth[i] = worth.contains(i) ? std::max(worth[i], share) : share;
          }
        }
        std::stable_sort(candidates.begin(), candidates.end(),
                         [&](int64_t a, int64_t b) { return worth[a] > worth[b]; });
        candidates.resize(kK);
        std::sort(candidates.begin(), candidates.end());
        selected = candidates;
        for (const int head : heads) {
          const std::vector<double> of_head = exact.Attend(head, selected);
          row.insert(row.end(), of_head.begin(), of_head.end());
        }
      }
      out.push_back(row);
    }
    return out;
  }

  std::vector<Sequence> layers_ = {RandomSequence(5, kTokens, GetParam().group, 1, 32)};
  std::shared_ptr<const CodebookSet> codebooks_ = RandomCodebooks(layers_, "4x4");
};

TEST_P(Sticky, FollowsTheRule) {
  for (const auto& [share, nats] :
       {std::pair{"0", 0.0}, {"0.5", std::log(2.0)}, {"0.99", std::log(100.0)}}) {
    Rig rig(&layers_, Options(std::string("pq:sticky=") + share));
    const auto expected = Expected(nats);
    const auto found = Decode(&rig);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_LT(MaxDifference(found[i], expected[i]), 1e-4) << share << ", step " << i;
    }
    const HeadStats stats = rig.stats().Total();
    EXPECT_DOUBLE_EQ(stats.selected, kSteps * kK);
    EXPECT_GT(stats.ranked, (kSteps + 1) * kK);
    EXPECT_LE(stats.ranked, (2 * kSteps - 1) * kK);
  }
}

TEST_P(Sticky, ExactKeysOfTheLastStepsFindMore) {
  Rig plain(&layers_, Options("pq")), sticky(&layers_, Options("pq:sticky=0"));
  Decode(&plain);
  Decode(&sticky);
  EXPECT_GT(sticky.stats().Total().recall, plain.stats().Total().recall);
}

TEST_P(Sticky, PagesThatAreReadAndThreadsDoNotMatter) {
  Rig held(&layers_, Options("pq:sticky=0.5"));
  RigOptions options = Options("pq:sticky=0.5");
  ForwardingStore away;
  options.store = &away;
  options.threads = 3;
  Rig read(&layers_, options);
  EXPECT_EQ(Decode(&read), Decode(&held));
}

TEST_P(Sticky, AHeadWithANaNAttendsExactly) {
  layers_[0].key(50, 0)[0] = NAN;
  Rig sticky(&layers_, Options("pq:sticky=0.5")), plain(&layers_, Options("pq"));
  const auto found = Decode(&sticky), expected = Decode(&plain);
  EXPECT_EQ(sticky.stats().Total().ranked, 0);
  for (size_t i = 0; i < found.size(); ++i) {
    for (size_t d = 0; d < found[i].size(); ++d) {
      EXPECT_TRUE(found[i][d] == expected[i][d] ||
                  (std::isnan(found[i][d]) && std::isnan(expected[i][d])));
    }
  }
}

// Steps of several tokens, and of one behind them, rank what the last step selected.
class StickyChunks : public Sticky {};

TEST_P(StickyChunks, StepsOfSeveralTokensAreOneStep) {
  Rig rig(&layers_, Options("pq:sticky=0"));
  rig.Prefill(0, kTokens - 9);
  const auto ranked = [&] { return rig.stats().Total().ranked; };
  rig.DecodeTogether(kTokens - 9, kTokens - 5);
  EXPECT_DOUBLE_EQ(ranked(), kK);  // there was none before
  rig.DecodeTogether(kTokens - 5, kTokens - 1);
  const double second = ranked() - kK;
  // Queries that each select for themselves go on with those of the newest token alone.
  const bool of_each = GetParam().per_head;
  EXPECT_EQ(second > kK, !of_each);
  const double before = ranked();
  rig.Decode(kTokens - 1);
  EXPECT_GT(ranked() - before, kK);
}

constexpr auto kName = [](const auto& test) { return test.param.name; };
const Case kCases[] = {{"one", 1, false}, {"shared", 3, false}, {"per_head", 3, true}};
INSTANTIATE_TEST_SUITE_P(Heads, Sticky, ::testing::ValuesIn(kCases), kName);
INSTANTIATE_TEST_SUITE_P(Heads, StickyChunks, ::testing::ValuesIn(kCases), kName);
INSTANTIATE_TEST_SUITE_P(SlidingWindow, Sticky,
                         ::testing::Values(Case{"shared", 3, false, 60},
                                           Case{"per_head", 2, true, 90}),
                         kName);

}  // namespace
}  // namespace pqcache::attention
