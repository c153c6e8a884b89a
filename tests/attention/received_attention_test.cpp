#include "attention/received_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "attention/prompt_record.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::RandomSequence;
using testing::Rig;
using testing::RigOptions;
using testing::Sequence;

// By the definition: weights of queries [first, last) on every token, within `window` (0: all).
std::vector<double> Oracle(const Sequence& s, int64_t first, int64_t last, int64_t window) {
  std::vector<double> sums(static_cast<size_t>(s.heads * s.tokens), 0.0);
  for (int head = 0; head < s.heads; ++head) {
    for (int64_t q = first; q < last; ++q) {
      std::vector<double> weights;
      const int64_t begin = window > 0 ? std::max<int64_t>(0, q - window + 1) : 0;
      double sum = 0;
      for (int64_t t = begin; t <= q; ++t) {
        double logit = 0;
        for (int d = 0; d < s.dim; ++d) {
          logit += double{s.query(q, head)[d]} * s.key(t, head / s.group())[d];
        }
        weights.push_back(std::exp(logit / std::sqrt(static_cast<double>(s.dim))));
        sum += weights.back();
      }
      for (int64_t t = begin; t <= q; ++t) {
        sums[static_cast<size_t>(head * s.tokens + t)] +=
            weights[static_cast<size_t>(t - begin)] / sum;
      }
    }
  }
  return sums;
}

// A prompt in chunks, recorded.
struct Recorded {
  std::vector<Sequence> layers;
  Rig rig;

  Recorded(Sequence s, const PromptNeeds& needs, const std::vector<int64_t>& ends)
      : layers{std::move(s)}, rig(&layers, Options(needs)) {
    int64_t begin = 0;
    for (const int64_t end : ends) {
      rig.Prefill(begin, end);
      begin = end;
    }
  }
  static RigOptions Options(const PromptNeeds& needs) {
    RigOptions options = testing::SmallSplit("exact", {});
    options.attention.needs = needs;
    options.threads = 2;
    return options;
  }
  std::vector<float> Received(const PromptNeeds& needs) {
    ThreadPool pool(2);
    const PrefillParams params{&rig.cache(), layers[0].heads, 0};
    return rig.attention().record()->Received(params, needs, 0, layers[0].tokens, &pool).value();
  }
};

void ExpectNear(const std::vector<float>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4) << i;
}

TEST(ReceivedAttention, IsTheSumOfTheWeightsWhateverTheChunks) {
  const PromptNeeds needs{.all = true, .local = true, .last = 20};
  for (const std::vector<int64_t>& ends :
       {std::vector<int64_t>{150}, {1, 40, 149, 150}, {64, 128, 150}}) {
    Recorded recorded(RandomSequence(1, 150, 4, 2, 16), needs, ends);
    const Sequence& s = recorded.layers[0];
    ExpectNear(recorded.Received({.all = true}), Oracle(s, 0, 150, 0));
    ExpectNear(recorded.Received({.local = true}), Oracle(s, 0, 150, 24));
    ExpectNear(recorded.Received({.last = 20}), Oracle(s, 130, 150, 0));
    ExpectNear(recorded.Received({.last = 7}), Oracle(s, 143, 150, 0));
  }
}

TEST(ReceivedAttention, LongerThanABlockOfKeys) {
  Recorded recorded(RandomSequence(2, 1200, 2, 1, 8), {.all = true, .local = true, .last = 600},
                    {700, 1200});
  const Sequence& s = recorded.layers[0];
  ExpectNear(recorded.Received({.all = true}), Oracle(s, 0, 1200, 0));
  ExpectNear(recorded.Received({.local = true}), Oracle(s, 0, 1200, 24));
  ExpectNear(recorded.Received({.last = 600}), Oracle(s, 600, 1200, 0));
}

TEST(ReceivedAttention, EveryQueryGivesOneInAll) {
  Recorded recorded(RandomSequence(3, 90, 4, 2, 16), {.all = true, .last = 32}, {90});
  for (const auto& [needs, queries] :
       {std::pair<PromptNeeds, double>{{.all = true}, 90}, {{.last = 32}, 32}}) {
    const std::vector<float> sums = recorded.Received(needs);
    for (int head = 0; head < 4; ++head) {
      EXPECT_NEAR(std::accumulate(sums.begin() + head * 90, sums.begin() + (head + 1) * 90, 0.0),
                  queries, 1e-3);
    }
  }
}

TEST(ReceivedAttention, AShorterPromptThanWasAskedForIsTakenWhole) {
  Recorded recorded(RandomSequence(4, 10, 2, 1, 8), {.last = 32}, {4, 10});
  ExpectNear(recorded.Received({.last = 32}), Oracle(recorded.layers[0], 0, 10, 0));
}

TEST(ReceivedAttention, AGapIsRefused) {
  Recorded recorded(RandomSequence(6, 40, 2, 1, 8), {.all = true}, {20});
  recorded.rig.Decode(20);
  ThreadPool pool(1);
  PromptRecord record({.all = true}, 1, 2);
  const int64_t position = 20;
  const AttentionInput input{0, 1, &position, recorded.layers[0].query(20, 0), nullptr, nullptr};
  const float lse[2] = {};
  testing::ExpectError(record.Add({&recorded.rig.cache(), 2, 0}, input, lse, &pool),
                       StatusCode::kInvalidArgument, "20 tokens in front of it");
  testing::ExpectError(record.Received({&recorded.rig.cache(), 2, 0}, {.last = 3}, 0, 0, &pool),
                       StatusCode::kInvalidArgument, "what was not recorded");
}

TEST(ReceivedAttention, OfAnotherPromptItIsRefused) {
  Recorded recorded(RandomSequence(5, 30, 2, 1, 8), {.all = true}, {20});
  ThreadPool pool(1);
  const PrefillParams params{&recorded.rig.cache(), 2, 0};
  testing::ExpectError(
      recorded.rig.attention().record()->Received(params, {.all = true}, 0, 30, &pool),
      StatusCode::kInvalidArgument, "20 were recorded");
}

}  // namespace
}  // namespace pqcache::attention
