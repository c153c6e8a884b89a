// pq:sticky=S: what the last step selected is ranked with what this one finds, by exact keys.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/support/attention_fixture.h"
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
};

class Sticky : public ::testing::TestWithParam<Case> {
 protected:
  RigOptions Options(const std::string& policy) const {
    RigOptions options = SmallSplit(policy, {.tokens = kK});
    options.attention.per_head = GetParam().per_head;
    options.attention.shadow_every = 1;
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
      const Split split(t + 1, 4, 24);
      const Sequence coded = WithDecodedKeys(s, *codebooks_, 0, split.begin, split.end);
      const StepOracle by_code{s, coded, t, 0, split}, exact{s, s, t, 0, split};
      std::vector<double> row;
      for (int list = 0; list < lists; ++list) {
        const std::vector<int> heads =
            GetParam().per_head ? std::vector<int>{list} : exact.AllHeads();
        std::vector<int64_t>& selected = last[static_cast<size_t>(list)];
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
            const bool favoured = std::binary_search(selected.begin(), selected.end(), i);
            total += std::exp(at_hand ? exact.Logit(s, head, i) + (favoured ? nats : 0)
                                      : by_code.Logit(coded, head, i));
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
  EXPECT_EQ(Decode(&plain)[0].size(), Decode(&sticky)[0].size());
  EXPECT_GT(sticky.stats().Total().recall, plain.stats().Total().recall);
}

INSTANTIATE_TEST_SUITE_P(Heads, Sticky,
                         ::testing::Values(Case{"one", 1, false}, Case{"shared", 3, false},
                                           Case{"per_head", 3, true}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace pqcache::attention
